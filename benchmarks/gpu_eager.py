"""What the fused operations replace, in plain torch, and what all of them are compared with.

Each form takes the maps that a kernel takes and gives the map that it gives, so that windows which are partitioned on
the way count. What a network has at hand, or could keep, is prepared beforehand and does not count: indices of 64 bits,
coordinates of the tokens, positions and tables in the form's precision. No form scales, as the kernels do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gpu_cases import AGENT, REGION, Sizes, input_shapes
from torch import Tensor

from debiexport.plugins.agent_attention.sizes import Sizes as AgentSizes
from debiexport.plugins.region_attention.sizes import Sizes as RegionSizes
from debiexport.reference.regions import from_regions, to_regions

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
_SEED = 7

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Form:
    """A way to compute a fused operation in torch.

    Attributes:
        name: for people.
        prepare: the kernel's inputs -> what `run` takes; not timed.
        run: sizes and what was prepared -> the output (N, H, W, C).
        judged: whether the goals are about it.
    """

    name: str
    prepare: Callable[[Sizes, Tensors], Tensors]
    run: Callable[..., Tensor]
    judged: bool = True


def make_inputs(sizes: Sizes, device: torch.device) -> list[Tensor]:
    """Inputs of a kernel in its order, always the same: scores of several units, every region routed to as often."""
    generator = torch.Generator("cpu").manual_seed(_SEED)
    tensors = []
    for name, shape in input_shapes(sizes).items():
        if name == "routes":
            tensors.append(_routes(sizes, generator))
        elif name == "positions":
            tensors.append(torch.rand(shape, generator=generator) * 2 - 1)
        else:
            numbers = torch.randn(shape, generator=generator)
            tensors.append(numbers if name == "table" else numbers.to(DTYPES[sizes.dtype]))
    return [tensor.to(device) for tensor in tensors]


def _routes(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """(N, R, topk) int32 without repetition in a row; every region is in topk rows, so that all keys are read."""
    assert isinstance(sizes, RegionSizes)
    count = sizes.regions**2
    rows = torch.arange(count).view(-1, 1)
    routes = []
    for _ in range(sizes.batch):
        names, steps = (torch.randperm(count, generator=generator) for _ in range(2))
        routes.append(names[(rows + steps[: sizes.top_k]) % count])
    return torch.stack(routes).to(torch.int32)


def reference(sizes: Sizes, inputs: Tensors) -> Tensor:
    """The output in float64, image by image: what a form needs of memory in float64 would not fit for 64 images."""
    form = FORMS[REGION][1] if isinstance(sizes, RegionSizes) else FORMS[AGENT][0]
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    shared = {len(inputs) - 1} if isinstance(sizes, AgentSizes) else set()  # the table is that of all images
    outputs = []
    for image in range(sizes.batch):
        one = [x if place in shared else x[image : image + 1] for place, x in enumerate(wide)]
        outputs.append(form.run(sizes, *form.prepare(sizes, one)))
    return torch.cat(outputs)


def _with_gather_index(sizes: Sizes, inputs: Tensors) -> Tensors:
    q, k, v, routes = inputs
    return q, k, v, routes.long()


def _with_rows(sizes: Sizes, inputs: Tensors) -> Tensors:
    """Routes as rows of the regions of the whole batch."""
    q, k, v, routes = inputs
    images = torch.arange(len(routes), device=routes.device).view(-1, 1, 1)
    return q, k, v, (routes + images * routes.shape[1]).flatten()


def _gathered(sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, routes: Tensor) -> Tensor:
    """As released: `torch.gather` with an index expanded over query regions, tokens and channels."""
    regions, c = sizes.regions**2, q.shape[-1]
    n, _, top_k = routes.shape

    def gather(x: Tensor) -> Tensor:  # (N, R, T, C) -> (N, R, topk * T, C)
        index = routes.view(n, regions, top_k, 1, 1).expand(-1, -1, -1, x.shape[2], c)
        return torch.gather(x.unsqueeze(1).expand(-1, regions, -1, -1, -1), 2, index).flatten(2, 3)

    return _routed(sizes, q, k, v, gather, _softmax_attention)


def _selected(sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    """Whole regions copied by `index_select`."""
    return _routed(sizes, q, k, v, lambda x: _select(x, rows), _softmax_attention)


def _selected_sdpa(sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
    """The same with torch's fused attention."""
    return _routed(sizes, q, k, v, lambda x: _select(x, rows), _fused_attention)


def _select(x: Tensor, rows: Tensor) -> Tensor:
    """(N, R, T, C) -> (N, R, topk * T, C)"""
    return x.flatten(0, 1).index_select(0, rows).reshape(*x.shape[:2], -1, x.shape[-1])


def _routed(
    sizes: Sizes,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gather: Callable[[Tensor], Tensor],
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    assert isinstance(sizes, RegionSizes)
    tiles, keys, values = (to_regions(x, sizes.regions) for x in (q, k, v))
    # (N*R, M, tokens, d): torch's fused attention takes no more axes.
    heads = (_heads(x.flatten(0, 1), sizes.heads) for x in (tiles, gather(keys), gather(values)))
    out = attend(*heads).transpose(1, 2).reshape(tiles.shape)
    return from_regions(out, sizes.regions, q.shape[1], q.shape[2])


def _heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, M*d) -> (N, M, T, d)"""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def _with_coordinates(sizes: Sizes, inputs: Tensors) -> Tensors:
    """Positions, tables (N*G, M/G, 2q-1, 2q-1) and tokens (1, H*W, 1, 2), all of q's type."""
    assert isinstance(sizes, AgentSizes)
    q, k, v, positions, table = inputs
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float64, device=q.device) for side in sizes.token_size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    tokens = torch.stack((x, y), -1).reshape(1, -1, 1, 2).to(q.dtype)
    tables = table.to(q.dtype).reshape(sizes.groups, -1, *table.shape[1:]).repeat(len(q), 1, 1, 1)
    return q, k, v, positions.to(q.dtype).flatten(0, 1).unsqueeze(1), tables, tokens


def _sampled(
    sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, tables: Tensor, tokens: Tensor
) -> Tensor:
    """As released: a grid of every token against every agent, and samples of the table at it."""
    return _broadcast(sizes, q, k, v, _bias(sizes, positions, tables, tokens), _softmax_attention)


def _sampled_sdpa(
    sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, tables: Tensor, tokens: Tensor
) -> Tensor:
    """The same with torch's fused attention."""
    return _broadcast(sizes, q, k, v, _bias(sizes, positions, tables, tokens), _fused_attention)


def _bias(sizes: Sizes, positions: Tensor, tables: Tensor, tokens: Tensor) -> Tensor:
    """(N, M, H*W, n)"""
    assert isinstance(sizes, AgentSizes)
    grid = (tokens - positions) * 0.5  # (N*G, H*W, n, 2)
    sampled = F.grid_sample(tables, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return sampled.reshape(-1, sizes.heads, *grid.shape[1:3])


def _broadcast(sizes: Sizes, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, attend: Callable[..., Tensor]) -> Tensor:
    heads = (_heads(x.flatten(1, 2), sizes.heads) for x in (q, k, v))
    return attend(*heads, bias).transpose(1, 2).reshape(q.shape)


FORMS: dict[str, tuple[Form, ...]] = {
    REGION: (
        Form("gather", _with_gather_index, _gathered),
        Form("index_select", _with_rows, _selected),
        Form("index_select + SDPA", _with_rows, _selected_sdpa, judged=False),
    ),
    AGENT: (
        Form("grid_sample", _with_coordinates, _sampled),
        Form("grid_sample + SDPA", _with_coordinates, _sampled_sdpa, judged=False),
    ),
}
"""What is timed beside the kernels; of those that are judged, the faster one counts."""
