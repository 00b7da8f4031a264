"""A card: a network's architecture and everything that travels with it.

Symbols of a card and the attributes they become:

| key in TOML     | attribute         | meaning                                                        |
|-----------------|-------------------|----------------------------------------------------------------|
| `outputs`       | `outputs`         | "logits" (the default), or "features" of a dense backbone      |
| `image_size`    | `image_size`      | [H, W] in pixels if nobody says; otherwise the preprocessing's |
|                 |                   | crop                                                           |
| `S`             | `regions`         | regions per side; `S*S` regions route to each other            |
| `C`             | `channels`        | channels of a stage                                            |
| `head_width`    | `head_width`      | channels per attention head                                    |
| `attention`     | `attention`       | the mixers of one block, in order: "bra", "dbra", "full"       |
| `bra_top_k`     | `bra_top_k`       | regions that a region attends to in BRA                        |
| `dbra_top_k`    | `dbra_top_k`      | regions that an agent region attends to in DBRA                |
| `r`             | `agent_stride`    | stride of the offset network: one agent per r x r tokens       |
| `G`             | `offset_groups`   | groups of channels with offsets of their own                   |
| `K`             | `offset_kernel`   | kernel side of the offset network                              |
| `q`             | `table_side`      | the position bias table has side 2q-1                          |
| `mlp_ratio`     | `mlp_ratio`       | hidden width of a block's MLPs over C                          |
| `dbra_mlp_ratio`| `dbra_mlp_ratio`  | hidden width of the MLP inside DBRA over C                     |
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from debiexport.cards.options import apply_options
from debiexport.cards.preprocessing import Preprocessing

_SYMBOLS = {
    "channels": "C",
    "agent_stride": "r",
    "offset_groups": "G",
    "offset_kernel": "K",
    "table_side": "q",
}
_ARCHITECTURE = ("family", "S", "num_classes", "outputs", "stages")


@dataclass(frozen=True)
class Stage:
    """One stage of a network; see the module's table of symbols.

    Attributes that a stage's mixers do not use are None.
    """

    blocks: int
    channels: int
    head_width: int
    attention: tuple[str, ...]
    mlp_ratio: int
    bra_top_k: int | None = None
    dbra_top_k: int | None = None
    agent_stride: int | None = None
    offset_groups: int | None = None
    offset_kernel: int | None = None
    table_side: int | None = None
    dbra_mlp_ratio: int | None = None

    @property
    def heads(self) -> int:
        return self.channels // self.head_width


@dataclass(frozen=True)
class Provenance:
    """The paper of a network, and where its checkpoint is to be had."""

    paper: str
    checkpoint: str


@dataclass(frozen=True)
class PaperFigures:
    """What the paper reports: parameters in millions, FLOPs in G, ImageNet top-1 in percent."""

    parameters_m: float
    flops_g: float
    top1: float


@dataclass(frozen=True)
class Card:
    """A network's architecture and everything that travels with it.

    `num_classes` is None where the outputs are features.
    """

    name: str
    family: str
    regions: int
    num_classes: int | None
    stages: tuple[Stage, ...]
    preprocessing: Preprocessing
    provenance: Provenance
    paper: PaperFigures | None = None
    outputs: str = "logits"
    image_size: tuple[int, int] | None = None

    @property
    def default_image_size(self) -> tuple[int, int]:
        """(height, width) in pixels if nobody says."""
        return self.image_size or (self.preprocessing.crop, self.preprocessing.crop)

    @property
    def top_k(self) -> tuple[int, ...]:
        """Top-k of DBRA, one value per stage that has it."""
        return tuple(s.dbra_top_k for s in self.stages if s.dbra_top_k is not None)

    @property
    def bra_top_k(self) -> tuple[int, ...]:
        """Top-k of BRA, one value per stage that has it."""
        return tuple(s.bra_top_k for s in self.stages if s.bra_top_k is not None)

    def to_dict(self) -> dict[str, Any]:
        """The card in the keys of its TOML file."""
        out: dict[str, Any] = {
            "name": self.name,
            "family": self.family,
            "S": self.regions,
            "num_classes": self.num_classes,
            "outputs": self.outputs,
            "image_size": None if self.image_size is None else list(self.image_size),
            "stages": [_stage_to_dict(stage) for stage in self.stages],
            "preprocessing": self.preprocessing.to_dict(),
            "provenance": vars(self.provenance).copy(),
        }
        if self.paper is not None:
            out["paper"] = vars(self.paper).copy()
        if self.outputs == "logits":  # the default
            del out["outputs"]
        return {key: value for key, value in out.items() if value is not None}

    @property
    def architecture_sha256(self) -> str:
        """SHA-256 of everything that decides what the network computes."""
        parts = {k: v for k, v in self.to_dict().items() if k in _ARCHITECTURE}
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def with_options(
        self,
        *,
        regions: int | None = None,
        top_k: Sequence[int] | None = None,
        bra_top_k: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> Card:
        """The same card with some choices replaced.

        Args:
            regions: regions per side S.
            top_k: top-k of DBRA, one value for each stage that has DBRA.
            bra_top_k: top-k of BRA, one value for each stage that has BRA.
            num_classes: number of classes of the head.

        Raises:
            UsageError: a value is out of range, the number of values does not fit, or there is no head.
        """
        return apply_options(self, regions=regions, top_k=top_k, bra_top_k=bra_top_k, num_classes=num_classes)


def _stage_to_dict(stage: Stage) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field in fields(stage):
        value = getattr(stage, field.name)
        if value is not None:
            out[_SYMBOLS.get(field.name, field.name)] = list(value) if isinstance(value, tuple) else value
    return out
