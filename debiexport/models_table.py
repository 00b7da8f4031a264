"""The table of cards: what is counted, and what the papers say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from debiexport.cards import iter_cards, shipped_checkpoint
from debiexport.geometry import Geometry
from debiexport.spec import count_parameters


@dataclass(frozen=True)
class ModelRow:
    """One card.

    Attributes:
        name: of the card.
        parameters: counted.
        multiply_adds: counted, of one image at the card's default size.
        image_size: (height, width) of that count.
        outputs: "logits" or "features".
        regions: S.
        top_k: of each attention of a block, stage by stage; None for full attention.
        paper_parameters_m, paper_flops_g, paper_top1: the paper's figures (millions, G, percent), if any.
        checkpoint: where the weights are to be had.
        shipped: whether trained weights come with debiexport.
    """

    name: str
    parameters: int
    multiply_adds: int
    image_size: tuple[int, int]
    outputs: str
    regions: int
    top_k: tuple[tuple[int | None, ...], ...]
    paper_parameters_m: float | None
    paper_flops_g: float | None
    paper_top1: float | None
    checkpoint: str
    shipped: bool

    def to_dict(self) -> dict[str, Any]:
        out = vars(self).copy()
        return out | {"image_size": list(self.image_size), "top_k": [list(stage) for stage in self.top_k]}

    def __str__(self) -> str:
        return f"{self.name}: {self.parameters / 1e6:.2f} M parameters, {self.multiply_adds / 1e9:.2f} G multiply-adds"


def list_models() -> list[ModelRow]:
    """Every card that ships with debiexport, by name."""
    rows = []
    for card in iter_cards():
        geometry = Geometry.of(card, card.default_image_size)
        per_kind = {"bra": "bra_top_k", "dbra": "dbra_top_k"}
        paper = card.paper
        rows.append(
            ModelRow(
                name=card.name,
                parameters=count_parameters(card),
                multiply_adds=geometry.multiply_adds,
                image_size=geometry.image_size,
                outputs=card.outputs,
                regions=card.regions,
                top_k=tuple(
                    tuple(getattr(stage, per_kind[kind]) if kind in per_kind else None for kind in stage.attention)
                    for stage in card.stages
                ),
                paper_parameters_m=paper.parameters_m if paper else None,
                paper_flops_g=paper.flops_g if paper else None,
                paper_top1=paper.top1 if paper else None,
                checkpoint=card.provenance.checkpoint,
                shipped=shipped_checkpoint(card.name) is not None,
            )
        )
    return rows
