"""Region attention as an operator of torch, `debiexport::region_attention`: importing this module registers it."""

from __future__ import annotations

import torch
from torch import Tensor

from debiexport.errors import UsageError
from debiexport.reference.regions import from_regions, routed_attention, to_regions

from .sizes import Sizes

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16"}
_WIDE = torch.float64  # on a CPU, where there is no kernel: to compare with float32


def region_attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, heads: int, regions: int) -> Tensor:
    """Every token of region i attends, per head, to all tokens of the regions routes[:, i].

    Scores, softmax and accumulation are float32 (float64 of float64). On a GPU it is one kernel, elsewhere plain torch.

    Args:
        q: queries (N, Hq, Wq, C), float32 or float16, scaled beforehand; on a CPU float64 as well.
        k, v: keys and values (N, H, W, C), of q's type.
        routes: (N, S*S, topk) int32, from 0 to S*S-1; on a GPU they are not checked.
        heads: M, contiguous slices of C.
        regions: S, regions a side; they are tiles of the maps, row-major.

    Returns:
        (N, Hq, Wq, C), of q's type.

    Raises:
        UsageError: shapes or types do not fit, or the kernel does not cover them.
    """
    out: Tensor = _operator(q, k, v, routes, heads, regions)
    return out


@torch.library.custom_op("debiexport::region_attention", mutates_args=(), device_types="cpu")
def _operator(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, heads: int, regions: int) -> Tensor:
    _sizes(q, k, v, routes, heads, regions)
    wide = torch.promote_types(q.dtype, torch.float32)
    tiles, keys, values = (to_regions(x.to(wide), regions) for x in (q, k, v))
    out = routed_attention(tiles, keys, values, routes.long(), heads, 1.0)
    return from_regions(out, regions, q.shape[1], q.shape[2]).to(q.dtype).contiguous()


@_operator.register_fake
def _shaped(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, heads: int, regions: int) -> Tensor:
    _sizes(q, k, v, routes, heads, regions)
    return q.new_empty(q.shape)


@_operator.register_kernel("cuda")
def _launch(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, heads: int, regions: int) -> Tensor:
    from .kernel import region_attention_kernel

    sizes = _sizes(q, k, v, routes, heads, regions)
    refusal = "there is no kernel for float64" if q.dtype == _WIDE else sizes.refusal
    if refusal is not None:
        raise UsageError(f"region attention: {refusal}; compute it on the CPU, or with a lowering without kernels")
    q, k, v, routes = (x.contiguous() for x in (q, k, v, routes))
    out = torch.empty_like(q)
    with torch.cuda.device(q.device):
        region_attention_kernel[sizes.grid](
            q, k, v, routes, out, **sizes.constants(), num_warps=sizes.warps, num_stages=sizes.stages
        )
    return out


def _sizes(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, heads: int, regions: int) -> Sizes:
    dtypes = [x.dtype for x in (q, k, v, routes)]
    if dtypes[0] not in (*_DTYPES, _WIDE) or dtypes != [q.dtype] * 3 + [torch.int32]:
        given = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise UsageError(f"region attention of {given}: give q, k, v in one of float32 and float16, routes in int32")
    return Sizes.of(
        q.shape, k.shape, v.shape, routes.shape, heads=heads, regions=regions, dtype=_DTYPES.get(q.dtype, "fp32")
    )
