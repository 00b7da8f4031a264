"""The stable names of places in a network, the same in the reference and in every artifact.

    stage3.block2.attn2                  the residual stream after that part of the block
    stage3.block2.attn2.affinity         (N, R, R) affinities of a routed attention
    stage3.block2.attn2.routes           (N, R, k) its choice of regions

Stages and blocks count from 1; a block's or a stage's output is that of its last part. A DeBiFormer
block has the parts pos_embed1, attn1, mlp1, pos_embed2, attn2, mlp2; a BiFormer block pos_embed, attn,
mlp (the Swin-T layout has no pos_embed).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from debiexport.cards import Card, Stage

LOGITS = "logits"
AFFINITY = "affinity"
ROUTES = "routes"


@dataclass(frozen=True)
class AttentionSite:
    """Where an attention stands: its stable name, its mixer and its place in the card."""

    name: str
    kind: str
    stage_index: int
    stage: Stage

    @property
    def top_k(self) -> int | None:
        """Top-k of this attention; None where it does not route."""
        return {"bra": self.stage.bra_top_k, "dbra": self.stage.dbra_top_k}.get(self.kind)

    @property
    def affinity(self) -> str:
        return f"{self.name}.{AFFINITY}"

    @property
    def routes(self) -> str:
        return f"{self.name}.{ROUTES}"


def stage_name(stage_index: int) -> str:
    return f"stage{stage_index + 1}"


def block_name(stage_index: int, block_index: int) -> str:
    return f"stage{stage_index + 1}.block{block_index + 1}"


def feature_name(stage_index: int) -> str:
    """The normed map of a stage, which a dense backbone gives."""
    return f"feature{stage_index + 1}"


def output_names(card: Card) -> tuple[str, ...]:
    """The outputs of a network, in order: `logits`, or `feature1` to `feature4` of a dense backbone."""
    return (LOGITS,) if card.outputs == "logits" else tuple(feature_name(i) for i in range(len(card.stages)))


def attention_parts(card: Card) -> tuple[str, ...]:
    return ("attn1", "attn2") if card.family == "debiformer" else ("attn",)


def block_parts(card: Card) -> tuple[str, ...]:
    """The parts of a block that add to the residual stream, in order."""
    if card.family == "debiformer":
        return ("pos_embed1", "attn1", "mlp1", "pos_embed2", "attn2", "mlp2")
    return ("pos_embed", "attn", "mlp") if card.family == "biformer" else ("attn", "mlp")


def attention_sites(card: Card) -> Iterator[AttentionSite]:
    """Every attention of a network in the order in which it runs."""
    for i, stage in enumerate(card.stages):
        for j in range(stage.blocks):
            for part, kind in zip(attention_parts(card), stage.attention, strict=True):
                yield AttentionSite(f"{block_name(i, j)}.{part}", kind, i, stage)


def routed_sites(card: Card) -> tuple[AttentionSite, ...]:
    """The attentions that route: every BRA and DBRA, also where top-k covers all regions."""
    return tuple(site for site in attention_sites(card) if site.top_k is not None)


def stream_names(card: Card) -> Iterator[str]:
    """Every place of the residual stream, in order."""
    for i, stage in enumerate(card.stages):
        for j in range(stage.blocks):
            for part in block_parts(card):
                yield f"{block_name(i, j)}.{part}"
