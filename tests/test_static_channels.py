"""The implementations for maps (N, C, H, W), against those for rows, which are tested against direct formulas."""

from __future__ import annotations

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
from debiexport.static.ops.bias import IMPLEMENTATIONS as BIASES
from debiexport.static.ops.bias import HatBias
from debiexport.static.ops.bias.channels import smallest_bias
from debiexport.static.ops.broadcast import ChannelBroadcast, RowBroadcast
from debiexport.static.ops.heads import InterleavedHeads, PermutedHeads
from debiexport.static.ops.heads.interleaved import channels
from debiexport.static.ops.heads.order import by_head
from debiexport.static.ops.layout import ChannelsLayout
from debiexport.static.ops.norm.channel import ChannelNorm
from debiexport.static.ops.positions import AgentDisplacements, AgentPositions, padded_agent_centres
from debiexport.static.ops.routing import ChannelEverywhere, IndexedWindows, OneHotWindows, RankedRouting, Routing
from debiexport.static.ops.routing.channels import smallest_routing
from debiexport.static.ops.routing.channels.windows import Windows
from debiexport.static.ops.routing.ranks import Ranks
from debiexport.static.ops.sampling.channels import ChannelSampling
from debiexport.static.ops.sampling.hat import HatSampling
from debiexport.static.taps import Taps
from debiexport.static.weights import Weights

WIDE = torch.float64
ROUTINGS = [IndexedWindows, OneHotWindows, RankedRouting]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _geometry(card: Card, name: str, size: tuple[int, int] = (64, 96)) -> AttentionGeometry:
    return Geometry.of(card, size).attentions[name]


def _in_order(x: torch.Tensor, geometry: AttentionGeometry, groups: int = 1) -> torch.Tensor:
    """A map (N, C, H, W) with its channels as the implementations want them."""
    return x[:, channels(geometry, groups)]


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (70, 45)], ids=["square", "wide", "padded"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("implementation", ROUTINGS)
@pytest.mark.parametrize("name", ["stage1.block1.attn1", "stage2.block1.attn1", "stage3.block1.attn2"])
def test_routing_is_routed_attention(
    tiny_card: Card, name: str, implementation: type[Routing], batch: int, size: tuple[int, int]
) -> None:
    g = _geometry(tiny_card, name, size)
    q = _random(batch, g.channels, *g.query_size, seed=1)
    k, v = (_random(batch, g.channels, *g.padded_size, seed=seed) for seed in (2, 4))
    taps = Taps()
    out = implementation(g, InterleavedHeads)(*(_in_order(x, g) for x in (q, k, v)), taps)
    qr, kr, vr = (to_regions(t.permute(0, 2, 3, 1), g.regions) for t in (q, k, v))
    affinity = qr.mean(2) @ kr.mean(2).transpose(-2, -1)
    wanted = routed_attention(qr, kr, vr, affinity.topk(g.top_k).indices, g.heads, 1.0)
    wanted = from_regions(wanted, g.regions, *g.query_size).permute(0, 3, 1, 2)
    torch.testing.assert_close(out, _in_order(wanted, g), rtol=0, atol=1e-13)
    torch.testing.assert_close(taps[f"{name}.affinity"], affinity, rtol=0, atol=1e-13)
    routes = as_routes(taps[f"{name}.routes"].numpy(), g)
    assert (np.sort(routes) == np.sort(affinity.topk(g.top_k).indices.numpy())).all()


def test_everything_is_attended_to_where_there_is_nothing_to_choose(tiny_card: Card) -> None:
    g = _geometry(tiny_card, "stage4.block1.attn2")
    assert ChannelEverywhere.supports(g) is None
    assert "has to be chosen" in (ChannelEverywhere.supports(_geometry(tiny_card, "stage1.block1.attn1")) or "")
    q, k, v = (_random(2, g.channels, *s, seed=i) for i, s in enumerate((g.query_size, g.padded_size, g.padded_size)))
    out = ChannelEverywhere(g, InterleavedHeads)(*(_in_order(x, g) for x in (q, k, v)), Taps())
    scores = torch.einsum("bmdq,bmdk->bmqk", *(x.reshape(2, g.heads, g.head_width, -1) for x in (q, k)))
    wanted = torch.einsum("bmqk,bmdk->bmdq", scores.softmax(-1), v.reshape(2, g.heads, g.head_width, -1))
    torch.testing.assert_close(out, _in_order(wanted.reshape(q.shape), g), rtol=0, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ranks_take_the_earlier_of_equals(k: int) -> None:
    affinity = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0]]])
    ranks = Ranks(4)(affinity)
    assert (ranks.sort(-1).values == torch.arange(4.0)).all(), "a permutation in every row"
    order = np.argsort(-affinity.numpy(), axis=-1, kind="stable")[..., :k]
    assert (np.take_along_axis(ranks.numpy(), order, -1) == np.arange(k)).all()


@pytest.mark.parametrize("size", [(6, 6), (4, 6), (3, 3), (3, 6)])
def test_windows_hold_the_tokens_of_a_region(size: tuple[int, int]) -> None:
    regions = 2 if size[0] % 2 == 0 else 3
    x = _random(2, 5, *size)
    windows = Windows(size, regions)
    split = windows.split(x)
    wanted = to_regions(x.permute(0, 2, 3, 1), regions).permute(0, 3, 2, 1).reshape(split.shape)
    assert torch.equal(split, wanted)
    assert torch.equal(windows.merge(split), x)


@pytest.mark.parametrize("cls", [AgentPositions, AgentDisplacements])
def test_displacements_are_positions_off_their_centres(tiny_card: Card, cls: type[AgentPositions]) -> None:
    g = _geometry(tiny_card, "stage1.block1.attn2", (70, 45))
    groups, agents = g.stage.offset_groups or 0, g.agent_size or (0, 0)
    offset = _random(2, groups, agents[0] * agents[1], 1)
    absolute, displaced = AgentPositions(g, WIDE), AgentDisplacements(g, WIDE)
    both = padded_agent_centres(g) + displaced.pad(displaced(offset))
    torch.testing.assert_close(both, absolute.pad(absolute(offset)), rtol=0, atol=1e-15)


def _agents(g: AttentionGeometry, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same agents as positions and as displacements, some of them clamped, before padding."""
    groups, (hk, wk) = g.stage.offset_groups or 0, g.agent_size or (0, 0)
    offset = _random(batch, groups, hk * wk, 1, seed=3)
    return AgentPositions(g, WIDE)(offset), AgentDisplacements(g, WIDE)(offset)


AGENTS = ["stage1.block1.attn2", "stage2.block1.attn2", "stage4.block1.attn1"]


@pytest.mark.parametrize("size", [(64, 96), (70, 45)])
@pytest.mark.parametrize("name", AGENTS)
def test_sampling_is_that_of_rows(tiny_card: Card, name: str, size: tuple[int, int]) -> None:
    g = _geometry(tiny_card, name, size)
    positions, displacements = _agents(g, 3)
    x = _random(3, g.channels, *g.padded_size)
    wanted = HatSampling(g, WIDE, PermutedHeads)(x.permute(0, 2, 3, 1), positions).permute(0, 3, 1, 2)
    torch.testing.assert_close(ChannelSampling(g, WIDE, None)(x, displacements), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("slot", ["channel_hat", "channel_lines", "channel_sampled"])
@pytest.mark.parametrize("name", AGENTS)
def test_bias_is_that_of_rows(tiny_card: Card, name: str, slot: str, native: bool) -> None:
    implementation: Any = BIASES[slot]
    card = tiny_card
    size = (70, 45)
    if native:  # a token's step is an entry of the table
        size = (64, 64)
        card = replace(card, stages=tuple(replace(s, table_side=64 // 4 // 2**i) for i, s in enumerate(card.stages)))
    g = _geometry(card, name, size)
    refusal = implementation.supports(g)
    if refusal is not None:
        assert not native
        assert "the table steps for" in refusal
        return
    side = 2 * g.stage.table_side - 1
    table = _random(g.heads, side, side, seed=1)
    positions, displacements = _agents(g, 2)
    wanted = HatBias(g, table)(AgentPositions(g, WIDE).pad(positions))  # (N, M, HW, n)
    got = implementation(g, table)(AgentDisplacements(g, WIDE).pad(displacements))  # (N*G, n, M/G, HW)
    groups = g.stage.offset_groups or 0
    got = got.reshape(2, groups, got.shape[1], -1, got.shape[-1]).permute(0, 1, 3, 4, 2).reshape(wanted.shape)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 96), (70, 45)])
@pytest.mark.parametrize("name", AGENTS)
def test_broadcast_is_that_of_rows(tiny_card: Card, name: str, size: tuple[int, int]) -> None:
    g = _geometry(tiny_card, name, size)
    groups, agents = g.stage.offset_groups or 0, g.padded_agent_size or (0, 0)
    q = _random(2, g.channels, *g.padded_size)
    k, v = (_random(2, g.channels, *agents, seed=i) for i in (1, 2))
    count, tokens = agents[0] * agents[1], g.padded_size[0] * g.padded_size[1]
    bias = _random(2, groups, g.heads // groups, tokens, count, seed=3)
    rows = RowBroadcast(g, PermutedHeads)(
        q, k.permute(0, 2, 3, 1), v.permute(0, 2, 3, 1), bias.reshape(2, g.heads, tokens, count)
    )
    got = ChannelBroadcast(g, InterleavedHeads)(
        *(_in_order(x, g, groups) for x in (q, k, v)),
        bias.permute(0, 1, 4, 2, 3).reshape(2 * groups, count, -1, tokens),
    )
    torch.testing.assert_close(got, _in_order(rows.permute(0, 3, 1, 2), g, groups), rtol=0, atol=1e-13)


def test_norm_with_and_without_affine() -> None:
    x = _random(2, 8, 3, 5)
    scale, shift = _random(8, seed=1), _random(8, seed=2)
    for weights, affine in ((Weights({"weight": scale, "bias": shift}), (scale, shift)), (Weights({}), (None, None))):
        wanted = F.layer_norm(x.permute(0, 2, 3, 1), (8,), *affine, 1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(ChannelNorm(8, 1e-6, weights, WIDE)(x), wanted)


def test_layout_moves_nothing() -> None:
    layout, x = ChannelsLayout(), _random(2, 6, 3, 5)
    assert layout.to_attention(x) is x
    assert layout.to_stream(x) is x
    padded = layout.pad(x, (3, 5), (4, 8))
    assert padded.shape == (2, 6, 4, 8)
    assert torch.equal(layout.crop(padded, (4, 8), (3, 5)), x)
    groups = layout.to_groups(x, 3)
    assert groups.shape == (6, 2, 3, 5)
    assert torch.equal(layout.from_groups(groups[:, :1], 3)[..., 0], x.reshape(2, 3, 2, 15)[:, :, 0])
    assert layout.logits(layout.pool(x)).shape == (2, 6)


def test_heads_are_innermost(tiny_card: Card) -> None:
    g = _geometry(tiny_card, "stage2.block1.attn2")
    x = _random(2, g.channels, *g.padded_size)
    heads = InterleavedHeads(by_head(g.padded_size, g.heads), g.head_width)
    split = heads.split(_in_order(x, g))
    wanted = x.reshape(2, g.heads, g.head_width, -1)
    assert torch.equal(split.transpose(1, 2), wanted)
    assert torch.equal(heads.merge(split), _in_order(x, g))


def test_the_smallest_forms_of_debi_t() -> None:
    """Windows where regions are large, dense scores where they are few; no tensor above 2^20 numbers."""
    attentions = Geometry.of(load_card("debi_t"), (224, 224)).attentions
    chosen = {name: smallest_routing(g) for name, g in attentions.items() if not g.routes_everywhere}
    assert {n for n, cls in chosen.items() if cls is OneHotWindows} == {"stage1.block1.attn1", "stage2.block1.attn1"}
    biases = [smallest_bias(attentions[f"stage{n}.block1.attn2"]) for n in (1, 2, 3, 4)]
    assert biases == [BIASES[f"channel_{name}"] for name in ("lines", "lines", "sampled", "sampled")]
    padded = Geometry.of(load_card("debi_t"), (256, 256)).attentions
    assert smallest_bias(padded["stage1.block1.attn2"]) is BIASES["channel_hat"]
