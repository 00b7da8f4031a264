"""The implementations of the slots against slow, direct formulas in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from debiexport.cards import Card, load_card
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.reference.regions import from_regions, routed_attention, to_regions
from debiexport.routes import as_routes
from debiexport.static.layers import convolution, linear
from debiexport.static.ops import bias, broadcast, norm, sampling
from debiexport.static.ops.bias.auto import cheapest_bias
from debiexport.static.ops.hat import BilinearWeights, PixelWeights, hat, pixels
from debiexport.static.ops.heads import IMPLEMENTATIONS as HEADS
from debiexport.static.ops.heads import Heads, PermutedHeads
from debiexport.static.ops.heads.order import Order, by_head, by_region
from debiexport.static.ops.layout.nchw import NCHWLayout
from debiexport.static.ops.positions import Positions
from debiexport.static.ops.routing import (
    IMPLEMENTATIONS,
    DenseRouting,
    EverywhereRouting,
    GatherRouting,
    MaskedRouting,
    Routing,
)
from debiexport.static.ops.routing.auto import cheapest_routing
from debiexport.static.ops.routing.mask import RegionMask
from debiexport.static.slots import format_of
from debiexport.static.taps import Taps
from debiexport.static.weights import Weights

WIDE = torch.float64


def _of_rows(implementations: Mapping[str, Any]) -> list[Any]:
    """Those written for maps (N, H, W, C); the others have `test_static_channels`."""
    return [implementation for implementation in implementations.values() if format_of(implementation) == "nhwc"]


def _geometry(card: Card, name: str, size: tuple[int, int] = (64, 96)) -> AttentionGeometry:
    return Geometry.of(card, size).attentions[name]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_hat_weights_interpolate() -> None:
    """At most two pixels weigh anything, the weights add up to one, and t = sum of weight times pixel."""
    t = torch.linspace(0, 6, 61, dtype=WIDE)
    weights = hat(t.unsqueeze(-1) - pixels(7, WIDE))
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(t), rtol=0, atol=1e-15)
    torch.testing.assert_close(weights @ pixels(7, WIDE), t, rtol=0, atol=1e-14)


def _positions(geometry: AttentionGeometry, batch: int) -> Positions:
    groups, (hk, wk) = geometry.stage.offset_groups, geometry.agent_size
    xy = _random(batch, groups, hk * wk, 2, seed=3).clamp(-1, 1)
    # The corners, where an off-by-one would read outside.
    xy[:, :, 0], xy[:, :, 1] = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
    return xy


def test_pixel_weights_of_a_map_that_is_not_square() -> None:
    xy = _random(2, 3, 5, 2, seed=3).clamp(-1, 1)
    columns, rows = PixelWeights((4, 7), WIDE)(xy)
    assert (columns.shape, rows.shape) == ((2, 3, 5, 7), (2, 3, 5, 4))
    torch.testing.assert_close(columns @ pixels(7, WIDE), (xy[..., 0] + 1) * 3, rtol=0, atol=1e-14)
    torch.testing.assert_close(rows @ pixels(4, WIDE), (xy[..., 1] + 1) * 1.5, rtol=0, atol=1e-14)
    weights = BilinearWeights((4, 7), WIDE)(xy).reshape(2, 3, 5, 4, 7)
    torch.testing.assert_close(weights, rows.unsqueeze(-1) * columns.unsqueeze(-2))


AGENTS = ["stage1.block1.attn2", "stage2.block1.attn2", "stage4.block1.attn1"]


@pytest.mark.parametrize("heads", _of_rows(HEADS))
@pytest.mark.parametrize("implementation", _of_rows(sampling.IMPLEMENTATIONS))
@pytest.mark.parametrize("name", AGENTS)
def test_sampling_is_bilinear(tiny_card: Card, name: str, implementation: Any, heads: type[Heads]) -> None:
    g = _geometry(tiny_card, name)
    groups, (height, width) = g.stage.offset_groups, g.padded_size
    positions = _positions(g, 3)
    x = _random(3, g.channels, height, width)
    sampled = implementation(g, WIDE, heads)(x.permute(0, 2, 3, 1), positions)
    assert sampled.shape[1:3] == g.agent_size
    out = sampled.flatten(1, 2).transpose(1, 2)
    for n, group, agent in np.ndindex(3, groups, positions.shape[2]):
        row = float(positions[n, group, agent, 1] + 1) / 2 * (height - 1)
        column = float(positions[n, group, agent, 0] + 1) / 2 * (width - 1)
        i, j = min(int(row), height - 2), min(int(column), width - 2)
        fy, fx = row - i, column - j
        channels = slice(group * g.channels // groups, (group + 1) * g.channels // groups)
        top = x[n, channels, i, j] * (1 - fx) + x[n, channels, i, j + 1] * fx
        bottom = x[n, channels, i + 1, j] * (1 - fx) + x[n, channels, i + 1, j + 1] * fx
        torch.testing.assert_close(out[n, channels, agent], top * (1 - fy) + bottom * fy, rtol=0, atol=1e-12)


SCORES = [made for made in _of_rows(bias.IMPLEMENTATIONS) if getattr(made, "gives", "scores") == "scores"]
"""The others leave the position bias to the broadcast."""


@pytest.mark.parametrize("implementation", SCORES)
@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("side", [4, 9, None])
def test_bias_is_a_bilinear_table_lookup(tiny_card: Card, name: str, side: int | None, implementation: Any) -> None:
    """Also where the table's side has nothing to do with the map's, if the implementation serves that."""
    g = _geometry(tiny_card, name)
    if side is None:  # the table of the map's own size
        side = 64 // 4 // 2 ** (int(name[5]) - 1)
        card = tiny_card.with_options()
        stages = tuple(replace(s, table_side=64 // 4 // 2**i) for i, s in enumerate(card.stages))
        g = _geometry(replace(card, stages=stages), name, (64, 64))
    else:
        refusal = implementation.supports(g)
        if refusal is not None:
            assert "the table steps for" in refusal
            return
    table = _random(g.heads, 2 * side - 1, 2 * side - 1, seed=1)
    positions = _positions(g, 2)
    got = implementation(g, table)(positions)
    height, width = g.padded_size
    groups = g.stage.offset_groups
    y = torch.arange(height, dtype=WIDE) / (height - 1) * 2 - 1
    x = torch.arange(width, dtype=WIDE) / (width - 1) * 2 - 1
    tokens = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    agents = positions.flip(-1)
    for head in range(g.heads):
        group = head // (g.heads // groups)
        grid = ((tokens[None, :, None] - agents[:, group, None]) / 2).flip(-1)
        wanted = F.grid_sample(table[None, None, head].expand(2, 1, -1, -1), grid, align_corners=True)[:, 0]
        torch.testing.assert_close(got[:, head], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
@pytest.mark.parametrize("name", AGENTS)
def test_the_fused_broadcast_computes_the_bias_itself(tiny_wide_card: Card, name: str, size: tuple[int, int]) -> None:
    """Also on padded maps, whose agents are padded too."""
    g = _geometry(tiny_wide_card, name, size)
    assert g.padded_agent_size and g.stage.table_side
    table = _random(g.heads, 2 * g.stage.table_side - 1, 2 * g.stage.table_side - 1, seed=1)
    agents = g.padded_agent_size[0] * g.padded_agent_size[1]
    positions = _random(2, g.stage.offset_groups or 1, agents, 2, seed=3).clamp(-1, 1)
    q = _random(2, g.channels, *g.padded_size, seed=5)
    k, v = (_random(2, *g.padded_agent_size, g.channels, seed=seed) for seed in (6, 7))
    fused, rows = (broadcast.IMPLEMENTATIONS[kind](g, PermutedHeads) for kind in ("fused", "rows"))
    got = fused(q, k, v, bias.IMPLEMENTATIONS["fused"](g, table)(positions))
    wanted = rows(q, k, v, bias.IMPLEMENTATIONS["hat"](g, table)(positions))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_kernels_refuse_heads_that_they_do_not_cover(tiny_card: Card, tiny_wide_card: Card) -> None:
    name = "stage1.block1.attn2"
    for slot in (IMPLEMENTATIONS, broadcast.IMPLEMENTATIONS):
        reason = slot["fused"].supports(_geometry(tiny_card, name))
        assert reason == "heads are 8 channels wide: the kernel takes 16, 32, 64, 128"
        assert slot["fused"].supports(_geometry(tiny_wide_card, name)) is None
    assert bias.IMPLEMENTATIONS["fused"].supports(_geometry(tiny_card, name)) is None


def _attend(routing: Routing, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Taps]:
    """Output of an implementation, and of the reference's attention with its affinity, on the same maps."""
    g = routing.geometry
    q = _random(batch, *g.query_size, g.channels, seed=1)
    k, v = (_random(batch, *g.padded_size, g.channels, seed=seed) for seed in (2, 4))
    taps = Taps()
    out = routing(*(x.permute(0, 3, 1, 2) for x in (q, k, v)), taps)
    qr, kr, vr = (to_regions(t, g.regions) for t in (q, k, v))
    affinity = qr.mean(2) @ kr.mean(2).transpose(-2, -1)
    wanted = routed_attention(qr, kr, vr, affinity.topk(g.top_k).indices, g.heads, 1.0)
    return out, from_regions(wanted, g.regions, *g.query_size), affinity, taps


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("heads", _of_rows(HEADS))
@pytest.mark.parametrize("implementation", _of_rows(IMPLEMENTATIONS))
@pytest.mark.parametrize("name", ["stage1.block1.attn1", "stage2.block1.attn1", "stage3.block1.attn2"])
def test_routing_is_routed_attention(
    tiny_card: Card, name: str, implementation: type[Routing], heads: type[Heads], batch: int
) -> None:
    g = _geometry(tiny_card, name)
    out, wanted, affinity, taps = _attend(implementation(g, heads), batch)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-13)
    torch.testing.assert_close(taps[f"{name}.affinity"], affinity, rtol=0, atol=1e-13)
    routes = as_routes(taps[f"{name}.routes"].numpy(), g)
    assert (np.sort(routes) == np.sort(affinity.topk(g.top_k).indices.numpy())).all()


@pytest.mark.parametrize("implementation", [*_of_rows(IMPLEMENTATIONS), EverywhereRouting])
def test_attending_to_everything(tiny_card: Card, implementation: type[Routing]) -> None:
    g = _geometry(tiny_card, "stage4.block1.attn2")
    assert g.routes_everywhere
    out, wanted, _, _ = _attend(implementation(g, PermutedHeads), 2)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-13)


def test_everywhere_routing_refuses_a_choice(tiny_card: Card) -> None:
    reason = EverywhereRouting.supports(_geometry(tiny_card, "stage1.block1.attn1"))
    assert reason is not None
    assert "top-k 1 of 4" in reason
    assert EverywhereRouting.supports(_geometry(tiny_card, "stage4.block1.attn1")) is None


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ranking_by_counting_takes_the_earlier_of_equals(tiny_card: Card, k: int) -> None:
    """Exactly k are chosen, whatever is equal."""
    g = _geometry(tiny_card.with_options(bra_top_k=(k, 2, 3)), "stage1.block1.attn1")
    affinity = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0]]])
    chosen = DenseRouting(g, PermutedHeads).choose(affinity)
    order = np.argsort(-affinity.numpy(), axis=-1, kind="stable")[..., :k]
    assert (chosen.sum(-1) == k).all()
    assert (np.take_along_axis(chosen.numpy(), order, -1) == 1).all()


def test_masked_scores_weigh_nothing_however_large(tiny_card: Card) -> None:
    """A key that was not chosen may have by far the best score; the chosen ones may differ by hundreds."""
    g = _geometry(tiny_card, "stage2.block1.attn2", (64, 64))
    q = _random(1, g.channels, *g.query_size, seed=1) * 30
    k, v = (_random(1, g.channels, *g.padded_size, seed=seed) * 30 for seed in (2, 4))
    outs = [cls(g, PermutedHeads)(q, k, v, Taps()) for cls in (MaskedRouting, DenseRouting, GatherRouting)]
    torch.testing.assert_close(outs[0], outs[2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outs[1], outs[2], rtol=1e-12, atol=1e-12)


def test_what_does_not_fit_is_refused_with_a_reason() -> None:
    card = load_card("debi_t").with_options(regions=32)
    geometry = Geometry.of(card, (1024, 1024))
    reason = DenseRouting.supports(geometry.attentions["stage1.block1.attn1"])
    assert reason is not None
    assert "ranking 1024 regions by counting" in reason
    large = Geometry.of(load_card("debi_t"), (1024, 1024)).attentions["stage1.block1.attn1"]
    for cls in (DenseRouting, MaskedRouting):
        assert "scores an image" in (cls.supports(large) or "")


def test_the_cheapest_routing_on_a_cpu() -> None:
    """Agents and the small regions of stage 3 by masks, the many tokens of stages 1 and 2 by copying."""
    attentions = Geometry.of(load_card("debi_t"), (224, 224)).attentions
    chosen = {name: cheapest_routing(g) for name, g in attentions.items() if not g.routes_everywhere}
    gathered = {name for name, cls in chosen.items() if cls is GatherRouting}
    assert gathered == {"stage1.block1.attn1", "stage2.block1.attn1"}


def test_the_cheapest_bias_on_a_cpu() -> None:
    """One product for the late stages, two for the early ones; the general form at any other size."""
    for size, wanted in ((224, ["lines", "lines", "sampled", "sampled"]), (256, ["hat"] * 4)):
        attentions = Geometry.of(load_card("debi_t"), (size, size)).attentions
        chosen = [cheapest_bias(attentions[f"stage{n}.block1.attn2"]) for n in (1, 2, 3, 4)]
        assert chosen == [bias.IMPLEMENTATIONS[name] for name in wanted]


def test_a_bias_constant_that_would_be_too_large_is_refused() -> None:
    large = Geometry.of(load_card("debi_t"), (224, 224)).attentions["stage1.block1.attn2"]
    assert "takes 19668992 numbers" in (bias.IMPLEMENTATIONS["sampled"].supports(large) or "")


@pytest.mark.parametrize("implementation", _of_rows(norm.IMPLEMENTATIONS))
def test_norm_with_and_without_affine(implementation: Any) -> None:
    x = _random(2, 3, 5, 8)
    scale, shift = _random(8, seed=1), _random(8, seed=2)
    with_affine = implementation(8, 1e-6, Weights({"weight": scale, "bias": shift}), WIDE)
    without = implementation(8, 1e-6, Weights({}), WIDE)
    torch.testing.assert_close(with_affine(x), F.layer_norm(x, (8,), scale, shift, 1e-6))
    torch.testing.assert_close(without(x), F.layer_norm(x, (8,), None, None, 1e-6))


ORDERS = {
    "by head": by_head((4, 6), 3),
    "by region": by_region((4, 6), 3, 2),
    "one token a region": by_region((2, 2), 3, 2),
    "one head": by_head((4, 6), 1),
    "one region": by_region((4, 6), 2, 1),
}


@pytest.mark.parametrize("heads", _of_rows(HEADS))
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_heads_move_rows_and_move_them_back(order: Order, heads: type[Heads]) -> None:
    """Against the definition: a row of the result is the row of the map that the order names."""
    x = _random(2, *order.size, order.heads * 5)
    module = heads(order, 5)
    split = module.split(x)
    assert split.shape == (2, *order.lead, 5)
    assert torch.equal(module.merge(split), x)
    names = torch.arange(order.rows).reshape(1, *order.size, order.heads, 1).expand(1, -1, -1, -1, 5)
    named = heads(order, 5).split(names.reshape(1, *order.size, -1))[0, ..., 0].flatten()
    assert torch.equal(split.reshape(2, -1, 5), x.reshape(2, -1, 5)[:, named])


def test_orders() -> None:
    """Rows of a 4x4 map of two heads in 2x2 regions."""
    rows = torch.arange(32).reshape(1, 4, 4, 2)
    tokens, regions = (
        PermutedHeads(order, 1).split(rows)[0, ..., 0] for order in (by_head((4, 4), 2), by_region((4, 4), 2, 2))
    )
    assert tokens[1].tolist() == list(range(1, 32, 2))
    assert (regions[0, 1] // 2).tolist() == [2, 3, 6, 7]  # the upper right region


@pytest.mark.parametrize("name", ["stage1.block1.attn1", "stage2.block1.attn2"])
def test_a_mask_of_regions_reaches_every_token(tiny_card: Card, name: str) -> None:
    g = _geometry(tiny_card, name)
    mask = _random(2, g.region_count, g.region_count)
    spread = RegionMask(g)(mask)
    regions = [
        to_regions(torch.arange(h * w).reshape(1, h, w, 1), g.regions)[0, ..., 0]
        for h, w in (g.query_size, g.padded_size)
    ]
    assert spread.shape == (2, 1, regions[0].numel(), regions[1].numel())
    for i, j in np.ndindex(g.region_count, g.region_count):
        block = spread[:, 0, regions[0][i]][..., regions[1][j]]
        assert torch.equal(block, mask[:, i, j].reshape(-1, 1, 1).expand_as(block)), "exactly"


def test_orders_have_as_few_axes_as_they_need() -> None:
    assert by_region((7, 7), 8, 7).axes == (49, 8)
    assert by_head((7, 7), 1).axes == (49,)
    assert by_region((56, 56), 2, 7).axes == (7, 8, 7, 8, 2)


def test_layout_moves_channels() -> None:
    layout = NCHWLayout()
    x = _random(2, 4, 3, 5)
    assert torch.equal(layout.to_stream(layout.to_attention(x)), x)
    weight, bias = _random(6, 4), _random(6)
    on_stream = layout.pointwise(weight, bias)(x)
    on_attention = layout.attention_pointwise(weight, bias)(layout.to_attention(x))
    torch.testing.assert_close(layout.to_attention(on_stream), on_attention)
    torch.testing.assert_close(layout.pool(x), x.mean((2, 3)))


def test_layers_hold_the_given_weights() -> None:
    weight, bias = _random(6, 2, 3, 3), _random(6)
    conv = convolution(weight, bias, stride=2, padding=1, groups=3)
    x = _random(1, 6, 7, 7)
    torch.testing.assert_close(conv(x), F.conv2d(x, weight, bias, stride=2, padding=1, groups=3))
    matrix = linear(weight.flatten(1), None)
    assert matrix.bias is None
    assert matrix(_random(4, 18)).shape == (4, 6)


def test_weights_are_addressed_by_place() -> None:
    weights = Weights({"a.b.weight": torch.zeros(1), "a.b.bias": torch.ones(1), "a.c": torch.ones(2)})
    inner = weights.at("a").at("b")
    assert sorted(inner) == ["bias", "weight"]
    assert len(weights.at("a")) == 3
    assert "weight" in inner
    assert "c" not in inner
    assert float(inner["bias"]) == 1
