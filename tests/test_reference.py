"""Details of the reference network, each against a slow and direct form of the same thing, in float64."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.loading import build_reference
from debiexport.reference.bra import BRA
from debiexport.reference.dbra import DBRA, MAX_BIAS_BYTES
from debiexport.reference.full import FullAttention
from debiexport.reference.mlp import ConvMLP, linear_mlp
from debiexport.reference.regions import from_regions, pad_to_regions, routed_attention, to_regions
from debiexport.reference.trace import Trace

Array = np.ndarray[Any, Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def filled(module: nn.Module) -> Any:
    """The module in float64 with random parameters of moderate size, in evaluation mode."""
    g = generator(1)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = math.prod(parameter.shape[1:]) if parameter.dim() > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=g) / math.sqrt(fan_in))
    return module.double().eval()


def bra(regions: int = 3, top_k: int = 4) -> BRA:
    return filled(BRA("bra", 8, 2, regions, top_k))  # type: ignore[no-any-return]


def dbra(
    regions: int = 3, top_k: int = 4, *, groups: int = 2, heads: int = 4, stride: int = 2, kernel: int = 3, q: int = 5
) -> DBRA:
    return filled(  # type: ignore[no-any-return]
        DBRA("dbra", 16, heads, regions, top_k, groups=groups, kernel=kernel, stride=stride, table_side=q, mlp_ratio=2)
    )


def close(actual: Tensor, expected: Tensor | Array, tolerance: float = 1e-12) -> None:
    if isinstance(expected, np.ndarray):
        expected = torch.from_numpy(expected.copy())
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=0, atol=tolerance)


def lookup(image: Array, y: float, x: float) -> float:
    """Bilinear value of one channel at (y, x) in pixels; outside there are zeros."""
    total = 0.0
    for row, column in product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            total += image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


# --------------------------------------------------------------------------------------- regions


def test_regions_are_tiles_in_row_major_order() -> None:
    x = torch.arange(6 * 4).reshape(1, 6, 4, 1)
    regions = to_regions(x, 2)
    assert regions.shape == (1, 4, 6, 1)
    for i, j in product(range(2), range(2)):
        assert torch.equal(regions[0, 2 * i + j, :, 0], x[0, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2, 0].flatten())
    assert torch.equal(from_regions(regions, 2, 6, 4), x)


@pytest.mark.parametrize(
    ("size", "padded"), [((6, 9), (6, 9)), ((7, 9), (9, 9)), ((5, 8), (6, 9)), ((1, 1), (3, 3)), ((10, 4), (12, 6))]
)
def test_padding_is_zeros_right_and_bottom(size: tuple[int, int], padded: tuple[int, int]) -> None:
    x = normal(2, *size, 3)
    out = pad_to_regions(x, 3)
    assert out.shape == (2, *padded, 3)
    assert torch.equal(out[:, : size[0], : size[1]], x)
    assert not out[:, size[0] :].any() and not out[:, :, size[1] :].any()


def test_routed_attention_by_loops() -> None:
    """Every token attends to the tokens of its region's routes, head by head, at the scale given."""
    n, r, tq, tk, heads, d = 2, 4, 3, 5, 2, 3
    q, k, v = normal(n, r, tq, heads * d), normal(n, r, tk, heads * d, seed=1), normal(n, r, tk, heads * d, seed=2)
    routes = torch.tensor([[[0, 1], [3, 2], [1, 0], [2, 0]], [[1, 2], [1, 3], [0, 3], [3, 2]]])
    expected = torch.empty_like(q)
    for i, j, t, m in product(range(n), range(r), range(tq), range(heads)):
        part = slice(m * d, (m + 1) * d)
        keys = torch.cat([k[i, int(region), :, part] for region in routes[i, j]])
        values = torch.cat([v[i, int(region), :, part] for region in routes[i, j]])
        expected[i, j, t, part] = (keys @ q[i, j, t, part] * 0.3).softmax(0) @ values
    close(routed_attention(q, k, v, routes, heads, 0.3), expected)


# ------------------------------------------------------------------------------------ attentions


@pytest.mark.parametrize("size", [(7, 8), (4, 9), (9, 5), (10, 10), (2, 2)])
@pytest.mark.parametrize("make", [bra, dbra])
def test_padding_equals_padding_by_hand(make: Any, size: tuple[int, int]) -> None:
    """Zeros to the right and at the bottom take part in everything; then they are cropped."""
    module = make()
    x = normal(2, *size, 16 if make is dbra else 8)
    by_hand = F.pad(x, (0, 0, 0, -size[1] % 3, 0, -size[0] % 3))
    free, padded = Trace(keep=True), Trace(keep=True)
    close(module(x, free), module(by_hand, padded)[:, : size[0], : size[1]])
    name = f"{module.name}.affinity"
    close(free.tensors[name], padded.tensors[name])


@pytest.mark.parametrize("size", [(9, 9), (7, 8)])
@pytest.mark.parametrize("make", [bra, dbra])
def test_own_routes_forced_change_no_bit(make: Any, size: tuple[int, int]) -> None:
    module = make().float()
    x = normal(2, *size, 16 if make is dbra else 8).float()
    trace = Trace(keep=True)
    free = module(x, trace)
    forced = Trace({module.name: trace.tensors[f"{module.name}.routes"]}, keep=True)
    assert torch.equal(module(x, forced), free)
    assert all(torch.equal(forced.tensors[name], tensor) for name, tensor in trace.tensors.items())


@pytest.mark.parametrize("make", [bra, dbra])
def test_order_of_routes_does_not_matter(make: Any) -> None:
    module = make()
    x = normal(2, 9, 9, 16 if make is dbra else 8)
    trace = Trace(keep=True)
    free = module(x, trace)
    routes = trace.tensors[f"{module.name}.routes"]
    order = torch.rand(routes.shape, generator=generator()).argsort(-1)
    shuffled = routes.gather(-1, order)
    assert not torch.equal(shuffled, routes)
    close(module(x, Trace({module.name: shuffled})), free)
    other = torch.roll(routes, 1, 1)  # but which regions they are does
    assert float((module(x, Trace({module.name: other})) - free).abs().max().detach()) > 1e-3


@pytest.mark.parametrize("which", ["tiny_card", "tiny_bi_card", "tiny_stl_card"])
def test_own_routes_forced_on_a_network_change_no_bit(which: str, request: pytest.FixtureRequest) -> None:
    card: Card = request.getfixturevalue(which)
    network = build_reference(random_checkpoint(card), (69, 90))
    x = normal(2, 3, 69, 90).float()
    free = network.run(x, stream=True)
    forced = network.run(x, free.routes, stream=True)
    assert all(torch.equal(forced.stream[name], tensor) for name, tensor in free.stream.items())
    assert torch.equal(forced.outputs["logits"], free.outputs["logits"])


@pytest.mark.parametrize("make", [bra, dbra])
def test_affinity_is_of_region_means_and_routes_are_its_largest(make: Any) -> None:
    module = make()
    x = normal(1, 6, 6, 16 if make is dbra else 8)
    trace = Trace(keep=True)
    module(x, trace)
    affinity, routes = (trace.tensors[f"{module.name}.{part}"] for part in ("affinity", "routes"))
    if make is bra:
        q, k, _ = module.qkv(x).chunk(3, -1)
        for a, b in product(range(9), range(9)):
            (i, j), (u, w) = divmod(a, 3), divmod(b, 3)
            mean_q = q[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1))
            mean_k = k[0, 2 * u : 2 * u + 2, 2 * w : 2 * w + 2].mean((0, 1))
            close(affinity[0, a, b], mean_q @ mean_k / math.sqrt(8))
    expected = np.argsort(-affinity.detach().numpy(), axis=-1)[..., :4]
    assert np.array_equal(np.sort(routes.numpy(), -1), np.sort(expected, -1))


def test_bra_with_all_regions_is_full_attention_of_the_whole_width() -> None:
    """With top-k S*S the tiles vanish; what is left is attention at the scale C^-0.5 and lepe of the values."""
    module = bra(top_k=9)
    x = normal(1, 6, 6, 8)
    q, k, v = (t.reshape(36, 2, 4).transpose(0, 1) for t in module.qkv(x).chunk(3, -1))
    out = ((q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v).transpose(0, 1).reshape(1, 6, 6, 8)
    lepe = module.lepe(module.qkv(x).chunk(3, -1)[2].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    close(module(x, Trace()), module.wo(out + lepe))


def test_full_attention_scales_by_head_and_enhances_its_input() -> None:
    module = filled(FullAttention(8, 2))
    x = normal(1, 3, 5, 8)
    q, k, v = (t.reshape(15, 2, 4).transpose(0, 1) for t in module.qkv(x).chunk(3, -1))
    out = ((q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1) @ v).transpose(0, 1).reshape(1, 3, 5, 8)
    close(module(x, Trace()), module.proj(out + module.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))


def test_mlps() -> None:
    x = normal(1, 4, 5, 6)
    conv = filled(ConvMLP(4, 3))
    hidden = conv.linear1(x)
    close(conv(x), conv.linear2(F.gelu(hidden + conv.dwc(hidden), approximate="none")))
    assert [name for name, _ in linear_mlp(4, 2, with_gap=True).named_parameters()][2] == "3.weight"
    assert [name for name, _ in linear_mlp(4, 2, with_gap=False).named_parameters()][2] == "2.weight"


# ------------------------------------------------------------------------------------------ DBRA


def centres(count: int) -> Array:
    return (np.arange(count) + 0.5) / count * 2 - 1


@pytest.mark.parametrize(("size", "stride"), [((6, 9), 2), ((7, 4), 3), ((6, 6), 1)])
def test_without_offsets_agents_are_at_the_centres(size: tuple[int, int], stride: int) -> None:
    module = dbra(stride=stride)
    with torch.no_grad():
        module.conv_offset_q[3].weight.zero_()
    positions = module.positions(normal(2, 16, *size))
    hk, wk = ((side - 1) // stride + 1 for side in size)
    assert positions.shape == (2, 2, hk, wk, 2)
    close(positions[..., 0], np.broadcast_to(centres(hk)[:, None], (2, 2, hk, wk)))
    close(positions[..., 1], np.broadcast_to(centres(wk), (2, 2, hk, wk)))


def test_offsets_are_one_scalar_for_both_axes_and_clamped() -> None:
    module = dbra()
    with torch.no_grad():
        module.conv_offset_q[3].weight.mul_(0.3)
    q = normal(2, 16, 6, 9)
    positions = module.positions(q).detach().numpy()
    offsets = np.stack(  # each group of channels on its own
        [module.conv_offset_q(q[:, 8 * g : 8 * g + 8]).detach().numpy()[:, 0] for g in range(2)], axis=1
    )
    close(torch.as_tensor(positions[..., 0]), np.clip(centres(3)[:, None] + offsets, -1, 1))
    close(torch.as_tensor(positions[..., 1]), np.clip(centres(5) + offsets, -1, 1))
    assert (np.abs(positions) == 1).any() and (np.abs(positions) < 1).any()


def random_positions(*shape: int) -> Tensor:
    """Positions (..., 2) in [-1, 1], some of them at the border as clamping leaves them."""
    return (normal(*shape, 2, seed=7) * 0.8).clamp(-1, 1)


@pytest.mark.parametrize("size", [(6, 9), (2, 5), (3, 3)])
def test_sample_by_loops(size: tuple[int, int]) -> None:
    """Bilinear, corners aligned: -1 and 1 are the centres of the first and the last pixel; groups on their own."""
    module = dbra()
    x, positions = normal(2, 16, *size), random_positions(2, 2, 3, 4)
    expected = np.empty((2, 16, 3, 4))
    for n, c, i, j in product(range(2), range(16), range(3), range(4)):
        y, w = positions[n, c // 8, i, j].tolist()
        expected[n, c, i, j] = lookup(x[n, c].numpy(), (y + 1) / 2 * (size[0] - 1), (w + 1) / 2 * (size[1] - 1))
    close(module.sample(x, positions), expected)


@pytest.mark.parametrize("size", [(5, 5), (6, 9), (2, 3), (9, 4)])
@pytest.mark.parametrize(("groups", "heads"), [(1, 4), (2, 4), (4, 4)])
def test_bias_by_loops(size: tuple[int, int], groups: int, heads: int) -> None:
    """Table pixels t = i (q-1)/(H-1) + (1-p) (q-1)/2 in y and x, from the tables of the head's group."""
    q = 5
    module = dbra(groups=groups, heads=heads, q=q)
    positions = random_positions(2, groups, 2, 3)
    table = module.rpe_table.detach().numpy()
    expected = np.empty((2, heads, size[0] * size[1], 6))
    for n, m, i, j, a in product(range(2), range(heads), range(size[0]), range(size[1]), range(6)):
        p = positions[n, m // (heads // groups)].reshape(-1, 2)[a].tolist()
        y, x = (t * (q - 1) / (side - 1) + (1 - c) * (q - 1) / 2 for t, side, c in zip((i, j), size, p, strict=True))
        assert -1e-12 <= y <= 2 * q - 2 + 1e-12 and -1e-12 <= x <= 2 * q - 2 + 1e-12  # always inside
        # A position on the very border may round to a hair outside, where a table ends and zeros begin.
        y, x = (min(max(t, 0.0), 2.0 * q - 2) for t in (y, x))
        expected[n, m, i * size[1] + j, a] = lookup(table[m], y, x)
    close(module.bias(positions, *size), expected, 1e-11)


def test_bias_at_the_tables_own_size_steps_one_pixel() -> None:
    """At H = q a token further is a pixel further, and a centred agent sees the table's pixels themselves."""
    module = dbra(groups=1, q=5)
    bias = module.bias(torch.zeros(1, 1, 1, 1, 2, dtype=torch.float64), 5, 5)
    close(bias.reshape(4, 5, 5), module.rpe_table[:, 2:7, 2:7])


def test_broadcast_by_loops() -> None:
    module = dbra()
    q, o, positions = normal(1, 16, 3, 6), normal(1, 16, 2, 2, seed=3), random_positions(1, 2, 2, 2)
    keys, values = (proj(o).reshape(16, 4) for proj in (module.proj_k, module.proj_v))
    bias = module.bias(positions, 3, 6)
    out = torch.empty(1, 16, 3, 6, dtype=torch.float64)
    for m, i, j in product(range(4), range(3), range(6)):
        part = slice(4 * m, 4 * m + 4)
        scores = q[0, part, i, j] @ keys[part] / math.sqrt(16) + bias[0, m, 6 * i + j]
        out[0, part, i, j] = (values[part] @ scores.softmax(0)).detach()
    close(module.broadcast(q, o, positions), module.proj_out(out))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens_at_once", [1, 3, 7, 40, 53, 54])
def test_large_maps_piece_by_piece_change_no_bit(
    tokens_at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position bias and the softmax of a few tokens at once, against those of all 54 tokens."""
    module = dbra().to(dtype)
    q, o, positions = (t.to(dtype) for t in (normal(2, 16, 6, 9), normal(2, 16, 2, 4), random_positions(2, 2, 2, 4)))
    with torch.no_grad():
        whole = module.broadcast(q, o, positions)
        each = 2 * 8 * (3 * 2 * 2 + 2 * 4) * dtype.itemsize
        monkeypatch.setattr("debiexport.reference.dbra.MAX_BIAS_BYTES", each * tokens_at_once + each // 2)
        grids: list[int] = []
        sample = F.grid_sample

        def recorded(tables: Tensor, grid: Tensor, **options: Any) -> Tensor:
            grids.append(grid.shape[1])
            return sample(tables, grid, **options)

        monkeypatch.setattr(F, "grid_sample", recorded)
        pieces = module.broadcast(q, o, positions)
    assert torch.equal(pieces, whole)
    assert max(grids) == tokens_at_once
    assert sum(grids) == 54


def test_pieces_are_bounded() -> None:
    """The first DBRA of debi_t_det at 800 x 1344: 67200 tokens, 32 x 48 agents, 2 heads in 1 group, float64."""
    module = dbra(groups=1, heads=2)
    step = module._tokens_at_once(torch.empty(1, 2, 67200, 1536, dtype=torch.float64, device="meta"))
    assert 1000 < step < 67200
    displacement, samples = 2 * step * 1536 * 8, 2 * step * 1536 * 8
    assert 3 * displacement + 2 * samples <= MAX_BIAS_BYTES == 256 * 2**20


def test_where_gradients_are_wanted_nothing_is_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    module = dbra()
    q, o, positions = normal(1, 16, 3, 6), normal(1, 16, 2, 2, seed=3), random_positions(1, 2, 2, 2)
    monkeypatch.setattr("debiexport.reference.dbra.MAX_BIAS_BYTES", 1)
    module.broadcast(q, o, positions).sum().backward()
    for name in ("rpe_table", "proj_k.weight", "proj_v.weight"):
        gradient = module.get_parameter(name).grad
        assert gradient is not None and gradient.abs().max() > 0


def test_padded_agents_are_agents_at_the_centre() -> None:
    """Agents of a grid that S does not divide: zeros behind it, as queries, in the residual and in the broadcast."""
    module = dbra(regions=3, stride=2)  # 12 x 9 tokens, 6 x 5 agents, padded to 6 x 6
    x = normal(1, 12, 9, 16)
    maps = x.permute(0, 3, 1, 2)
    q, k, v = module.qkv_conv(maps).chunk(3, 1)
    positions = module.positions(q)
    assert positions.shape == (1, 2, 6, 5, 2)
    agents = torch.cat([module.sample(maps, positions), torch.zeros(1, 16, 6, 1)], -1)
    lepe = torch.cat([module.lepe1(v), torch.zeros(1, 16, 6, 1)], -1)
    positions = torch.cat([positions, torch.zeros(1, 2, 6, 1, 2)], 3)

    def norm(layer: nn.LayerNorm, t: Tensor) -> Tensor:
        mean, variance = t.mean(1, keepdim=True), t.var(1, keepdim=True, unbiased=False)
        weight, bias = layer.weight.reshape(-1, 1, 1), layer.bias.reshape(-1, 1, 1)
        return (t - mean) / (variance + 1e-6).sqrt() * weight + bias

    o = agents + module.unifyheads1(module.attend(agents, k, v, Trace()) + lepe)
    o = norm(module.norm, o + module.mlp(norm(module.norm2, o)))
    expected = module.broadcast(q, o, positions).permute(0, 2, 3, 1)
    close(module(x, Trace()), expected, 1e-11)


# ----------------------------------------------------------------------------------------- trace


def test_trace_keeps_only_what_it_is_asked_for() -> None:
    affinity = normal(1, 4, 4)
    silent, routing, everything = Trace(), Trace(keep=True), Trace(keep=True, stream=True)
    for trace in (silent, routing, everything):
        routes = trace.choose("a", affinity, 2)
        assert torch.equal(routes, affinity.topk(2, -1).indices)
        assert trace.record("b", affinity) is affinity
    assert silent.tensors == {}
    assert list(routing.tensors) == ["a.affinity", "a.routes"]
    assert list(everything.tensors) == ["a.affinity", "a.routes", "b"]
