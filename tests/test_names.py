"""Stable names: what they look like, and that they are complete and in the order in which things run."""

from __future__ import annotations

import pytest
import torch

from debiexport.cards import Card, card_names, load_card
from debiexport.checkpoint import random_checkpoint
from debiexport.loading import build_reference
from debiexport.names import (
    attention_parts,
    attention_sites,
    block_name,
    block_parts,
    output_names,
    routed_sites,
    stage_name,
    stream_names,
)
from debiexport.reference.trace import Trace


def test_stages_and_blocks_count_from_one() -> None:
    assert stage_name(0) == "stage1"
    assert block_name(2, 1) == "stage3.block2"


@pytest.mark.parametrize(
    ("model", "attentions", "parts"),
    [
        ("debi_t", ("attn1", "attn2"), ("pos_embed1", "attn1", "mlp1", "pos_embed2", "attn2", "mlp2")),
        ("biformer_t", ("attn",), ("pos_embed", "attn", "mlp")),
        ("biformer_stl", ("attn",), ("attn", "mlp")),
    ],
)
def test_parts_of_a_block(model: str, attentions: tuple[str, ...], parts: tuple[str, ...]) -> None:
    card = load_card(model)
    assert attention_parts(card) == attentions
    assert block_parts(card) == parts


@pytest.mark.parametrize(
    ("model", "sites", "routed", "stream"),
    [
        ("debi_t", 14, 14, 42),
        ("debi_s", 32, 32, 96),
        ("debi_b", 30, 30, 90),
        ("biformer_t", 14, 12, 42),
        ("biformer_s", 30, 26, 90),
        ("biformer_b", 30, 26, 90),
        ("biformer_stl", 12, 10, 24),
        ("debi_nano", 10, 10, 30),
    ],
)
def test_counts(model: str, sites: int, routed: int, stream: int) -> None:
    """Full attention does not route; everything adds to the residual stream."""
    card = load_card(model)
    assert len(list(attention_sites(card))) == sites
    assert len(routed_sites(card)) == routed
    assert len(list(stream_names(card))) == len(set(stream_names(card))) == stream


def test_sites_of_debi_t() -> None:
    sites = {site.name: site for site in attention_sites(load_card("debi_t"))}
    assert list(sites)[:5] == [
        "stage1.block1.attn1",
        "stage1.block1.attn2",
        "stage2.block1.attn1",
        "stage2.block1.attn2",
        "stage3.block1.attn1",
    ]
    bra, dbra = sites["stage3.block2.attn1"], sites["stage3.block2.attn2"]
    assert (bra.kind, bra.top_k, bra.stage_index) == ("bra", 16, 2)
    assert (dbra.kind, dbra.top_k, dbra.stage_index) == ("dbra", 16, 2)
    assert dbra.stage == load_card("debi_t").stages[2]
    assert dbra.affinity == "stage3.block2.attn2.affinity"
    assert dbra.routes == "stage3.block2.attn2.routes"
    assert sites["stage1.block1.attn1"].top_k == 1 and sites["stage1.block1.attn2"].top_k == 4


def test_outputs(tiny_card: Card, tiny_seg_card: Card) -> None:
    assert output_names(tiny_card) == ("logits",)
    assert output_names(tiny_seg_card) == ("feature1", "feature2", "feature3", "feature4")


def test_full_attention_does_not_route() -> None:
    site = list(attention_sites(load_card("biformer_t")))[-1]
    assert (site.name, site.kind, site.top_k) == ("stage4.block2.attn", "full", None)
    assert site not in routed_sites(load_card("biformer_t"))


@pytest.mark.parametrize("name", card_names())
def test_stream_begins_and_ends_with_a_block(name: str) -> None:
    card = load_card(name)
    stream, parts = list(stream_names(card)), block_parts(card)
    assert stream[0] == f"stage1.block1.{parts[0]}"
    assert stream[-1] == f"stage4.block{card.stages[3].blocks}.{parts[-1]}"
    assert {site.name for site in attention_sites(card)} <= set(stream)


@pytest.mark.parametrize("which", ["tiny_card", "tiny_bi_card", "tiny_stl_card", "tiny_seg_card"])
def test_order_is_the_order_of_a_run(which: str, request: pytest.FixtureRequest) -> None:
    """Names in the order in which the reference network records them, routing just before its attention's output."""
    card: Card = request.getfixturevalue(which)
    trace = Trace(keep=True, stream=True)
    with torch.no_grad():
        build_reference(random_checkpoint(card), (64, 64))(torch.zeros(1, 3, 64, 64), trace)
    routing = {site.name: [site.affinity, site.routes] for site in routed_sites(card)}
    expected = [place for name in stream_names(card) for place in (*routing.get(name, []), name)]
    assert list(trace.tensors) == expected
