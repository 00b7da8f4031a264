"""The implementations of the slots against slow, direct formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from debiexport.cards import Card
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.reference.regions import from_regions, routed_attention, to_regions
from debiexport.static.layers import convolution, linear
from debiexport.static.ops.bias.hat import HatBias
from debiexport.static.ops.hat import hat, pixels
from debiexport.static.ops.layout.nchw import NCHWLayout
from debiexport.static.ops.norm.layernorm import LayerNorm
from debiexport.static.ops.routing import IMPLEMENTATIONS, EverywhereRouting, GatherRouting
from debiexport.static.ops.sampling.hat import HatSampling
from debiexport.static.taps import Taps
from debiexport.static.weights import Weights

WIDE = torch.float64


def _geometry(card: Card, name: str, size: tuple[int, int] = (64, 96)) -> AttentionGeometry:
    return Geometry.of(card, size).attentions[name]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_hat_weights_interpolate() -> None:
    """At most two pixels weigh anything, the weights add up to one, and t = sum of weight times pixel."""
    t = torch.linspace(0, 6, 61, dtype=WIDE)
    weights = hat(t, pixels(7, WIDE))
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(t), rtol=0, atol=1e-15)
    torch.testing.assert_close(weights @ pixels(7, WIDE), t, rtol=0, atol=1e-14)


def _positions(geometry: AttentionGeometry, batch: int) -> torch.Tensor:
    groups, (hk, wk) = geometry.stage.offset_groups, geometry.agent_size
    positions = _random(batch, groups, hk * wk, 2, seed=3).clamp(-1, 1)
    positions[:, :, 0] = torch.tensor([-1.0, 1.0])  # the corners, where an off-by-one would read outside
    positions[:, :, 1] = torch.tensor([1.0, -1.0])
    return positions


@pytest.mark.parametrize("name", ["stage1.block1.attn2", "stage2.block1.attn2", "stage4.block1.attn1"])
def test_hat_sampling_is_grid_sample(tiny_card: Card, name: str) -> None:
    g = _geometry(tiny_card, name)
    groups = g.stage.offset_groups
    positions = _positions(g, 3)
    x = _random(3, g.channels, *g.padded_size)
    grouped = x.reshape(3 * groups, g.channels // groups, *g.padded_size)
    grid = positions.reshape(3 * groups, 1, -1, 2).flip(-1)
    wanted = F.grid_sample(grouped, grid, align_corners=True).reshape(3, g.channels, -1)
    torch.testing.assert_close(HatSampling(g, WIDE)(x, positions), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["stage1.block1.attn2", "stage2.block1.attn2", "stage4.block1.attn1"])
@pytest.mark.parametrize("side", [4, 9])
def test_hat_bias_is_a_bilinear_table_lookup(tiny_card: Card, name: str, side: int) -> None:
    """Also where the table's side has nothing to do with the map's."""
    g = _geometry(tiny_card, name)
    table = _random(g.heads, 2 * side - 1, 2 * side - 1, seed=1)
    positions = _positions(g, 2)
    bias = HatBias(g, table)(positions)
    height, width = g.padded_size
    groups = g.stage.offset_groups
    y = torch.arange(height, dtype=WIDE) / (height - 1) * 2 - 1
    x = torch.arange(width, dtype=WIDE) / (width - 1) * 2 - 1
    tokens = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    for head in range(g.heads):
        group = head // (g.heads // groups)
        grid = ((tokens[None, :, None] - positions[:, group, None]) / 2).flip(-1)
        wanted = F.grid_sample(table[None, None, head].expand(2, 1, -1, -1), grid, align_corners=True)[:, 0]
        torch.testing.assert_close(bias[:, head], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["stage1.block1.attn1", "stage2.block1.attn1", "stage3.block1.attn2"])
def test_gather_routing_is_routed_attention(tiny_card: Card, name: str, batch: int) -> None:
    g = _geometry(tiny_card, name)
    s, (hq, wq), (hk, wk) = g.regions, g.query_size, g.padded_size
    q = _random(batch, hq, wq, g.channels, seed=1)
    k = _random(batch, hk, wk, g.channels, seed=2)
    v = _random(batch, hk, wk, g.channels, seed=4)
    routing, taps = GatherRouting(g), Taps()
    out = routing.restore(routing(routing.arrange(q), routing.arrange(k), routing.arrange(v), taps))

    qr, kr, vr = (to_regions(t, s) for t in (q, k, v))
    affinity = qr.mean(2) @ kr.mean(2).transpose(-2, -1)
    routes = affinity.topk(g.top_k).indices
    wanted = from_regions(routed_attention(qr, kr, vr, routes, g.heads, 1.0), s, hq, wq)
    torch.testing.assert_close(taps[f"{name}.affinity"], affinity, rtol=0, atol=1e-13)
    assert torch.equal(taps[f"{name}.routes"], routes)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["stage1.block1.attn1", "stage1.block1.attn2"])
def test_arrange_and_restore_are_inverse(tiny_card: Card, name: str) -> None:
    g = _geometry(tiny_card, name)
    for routing in (GatherRouting(g), EverywhereRouting(g)):
        x = _random(2, *g.query_size, g.channels)
        assert torch.equal(routing.restore(routing.arrange(x)), x)


def test_everywhere_routing_is_gathering_everything(tiny_card: Card) -> None:
    g = _geometry(tiny_card, "stage4.block1.attn2")
    assert g.routes_everywhere
    q = _random(2, *g.query_size, g.channels, seed=1)
    k, v = (_random(2, *g.padded_size, g.channels, seed=n) for n in (2, 3))
    outs = []
    for routing in (GatherRouting(g), EverywhereRouting(g)):
        outs.append(routing.restore(routing(routing.arrange(q), routing.arrange(k), routing.arrange(v), Taps())))
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-13)


def test_everywhere_routing_refuses_a_choice(tiny_card: Card) -> None:
    reason = EverywhereRouting.supports(_geometry(tiny_card, "stage1.block1.attn1"))
    assert reason is not None
    assert "top-k 1 of 4" in reason
    assert EverywhereRouting.supports(_geometry(tiny_card, "stage4.block1.attn1")) is None


def test_every_implementation_serves_the_small_cards(tiny_card: Card, tiny_bi_card: Card) -> None:
    for card in (tiny_card, tiny_bi_card):
        for g in Geometry.of(card, (64, 64)).routed:
            for implementation in IMPLEMENTATIONS.values():
                assert implementation.supports(g) is None


def test_layernorm_with_and_without_affine() -> None:
    x = _random(2, 3, 5, 8)
    scale, shift = _random(8, seed=1), _random(8, seed=2)
    with_affine = LayerNorm(8, 1e-6, Weights({"weight": scale, "bias": shift}), WIDE)
    without = LayerNorm(8, 1e-6, Weights({}), WIDE)
    torch.testing.assert_close(with_affine(x), F.layer_norm(x, (8,), scale, shift, 1e-6))
    torch.testing.assert_close(without(x), F.layer_norm(x, (8,), None, None, 1e-6))


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
