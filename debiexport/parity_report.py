"""What is measured when an artifact is judged, and whether it is good enough; see `parity` for how."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from debiexport.names import LOGITS


@dataclass(frozen=True)
class OutputParity:
    """The outputs at one batch size against the forced reference; see `metrics` for the definitions.

    Every figure is the worst of all images and of all outputs; `output` names the one of the relative
    error. The shares of equal best classes are None where there are no classes.
    """

    batch: int
    images: int
    finite: bool
    output: str
    relative_error: float
    psnr_db: float
    cosine: float
    top1_agreement: float | None
    top5_agreement: float | None

    def to_dict(self) -> dict[str, Any]:
        return {key: json_value(value) for key, value in vars(self).items()}

    def __str__(self) -> str:
        text = (
            f"batch {self.batch}: relative error {self.relative_error:.1e}{self.where}, PSNR {self.psnr_db:.1f} dB,"
            f" cosine {self.cosine:.9f}"
        )
        if self.top1_agreement is None or self.top5_agreement is None:
            return f"{text}; {self.images} images"
        return f"{text}, top-1 {self.top1_agreement:.0%}, top-5 {self.top5_agreement:.0%} of {self.images} images"

    @property
    def where(self) -> str:
        """The output for a message, where there is more than one."""
        return "" if self.output == LOGITS else f" in {self.output}"


@dataclass(frozen=True)
class BlockParity:
    """The routes of one attention.

    Affinity errors are the largest absolute difference over the largest spread (max - min of a row).

    Attributes:
        name: stable name of the attention.
        regions: R, regions that route.
        top_k: regions each of them attends to.
        rows: query regions compared, over all images and batch sizes; 0 where there is nothing to choose.
        agreement: share of rows with the same set of regions.
        near_ties: rows that differ within rounding.
        wrong: rows that differ by more, or hold no valid set.
        min_margin: smallest margin of the reference's rows; None where there is nothing to choose.
        affinity_error: of the artifact against the forced reference; None where not measured.
        noise_floor: of the reference, float32 against float64.
        tolerance: what `affinity_error` may be.
    """

    name: str
    regions: int
    top_k: int
    rows: int = 0
    agreement: float = 1.0
    near_ties: int = 0
    wrong: int = 0
    min_margin: float | None = None
    affinity_error: float | None = None
    noise_floor: float | None = None
    tolerance: float | None = None

    @property
    def chooses(self) -> bool:
        """Whether top-k leaves anything to choose."""
        return self.top_k < self.regions

    @property
    def failure(self) -> str | None:
        """What is wrong with this block, if anything."""
        if self.chooses and self.rows == 0:
            return f"{self.name}: its routes are missing from the artifact"
        if self.wrong:
            return f"{self.name}: {self.wrong} of {self.rows} regions are routed wrongly"
        if self.affinity_error is not None and self.tolerance is not None and not self.affinity_error <= self.tolerance:
            return f"{self.name}: affinity error {self.affinity_error:.1e} is above {self.tolerance:.1e}"
        return None

    def to_dict(self) -> dict[str, Any]:
        return {key: json_value(value) for key, value in vars(self).items()}

    def __str__(self) -> str:
        if not self.chooses:
            return f"{self.name}: all {self.regions} regions, nothing to choose"
        text = f"{self.name}: {self.agreement:.2%} of {self.rows} rows agree, {self.near_ties} near-ties"
        return text + (f", {self.wrong} WRONG" if self.wrong else "")


@dataclass(frozen=True)
class ParityReport:
    """What was measured and whether it is good enough.

    Attributes:
        method: "reference" (recomputed, routes forced) or "golden" (against the stored answers).
        precision: of the artifact.
        noise_floor: of the outputs, the largest.
        tolerance: what the outputs' relative error may be.
        outputs: one entry a batch size.
        blocks: every routed attention, in order.
        notes: what limits the judgement.
        min_psnr_db: what the outputs' PSNR has to reach, which then takes the place of the tolerance; None otherwise.
        flips_psnr_db: PSNR of the reference forced to the artifact's routes against the reference choosing freely, of
            the worst image: what the near-ties that rounding has flipped cost. None where there were none, or where
            it was not measured.
    """

    method: str
    precision: str
    noise_floor: float
    tolerance: float
    outputs: tuple[OutputParity, ...]
    blocks: tuple[BlockParity, ...]
    notes: tuple[str, ...] = field(default=())
    min_psnr_db: float | None = None
    flips_psnr_db: float | None = None

    @property
    def failures(self) -> list[str]:
        """Every reason for which parity is lost; empty if it holds."""
        found = []
        for output in self.outputs:
            if not output.finite:
                found.append(f"batch {output.batch}: outputs are not finite")
            elif self.min_psnr_db is not None:
                if not output.psnr_db >= self.min_psnr_db:
                    found.append(
                        f"batch {output.batch}: PSNR {output.psnr_db:.1f} dB{output.where} is below"
                        f" {self.min_psnr_db:g} dB"
                    )
            elif not output.relative_error <= self.tolerance:
                found.append(
                    f"batch {output.batch}: relative error {output.relative_error:.1e}{output.where} is above"
                    f" {self.tolerance:.1e}"
                )
        if not self.outputs:
            found.append("no output could be compared")
        return found + [block.failure for block in self.blocks if block.failure]

    @property
    def ok(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "method": self.method,
            "precision": self.precision,
            "noise_floor": json_value(self.noise_floor),
            "tolerance": json_value(self.tolerance),
            "min_psnr_db": self.min_psnr_db,
            "flips_psnr_db": json_value(self.flips_psnr_db),
            "outputs": [output.to_dict() for output in self.outputs],
            "routes": [block.to_dict() for block in self.blocks],
            "failures": self.failures,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        if not self.ok:
            return f"parity is lost: {self.failures[0]}"
        if self.min_psnr_db is not None:
            least = min(output.psnr_db for output in self.outputs)
            return f"parity holds: PSNR {least:.1f} dB, at least {self.min_psnr_db:g} dB is asked of {self.precision}"
        worst = max(output.relative_error for output in self.outputs)
        return f"parity holds: relative error {worst:.1e}, tolerance {self.tolerance:.1e}"


def json_value(value: Any) -> Any:
    """A JSON value: six significant digits, and None for what JSON has no number for."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def join_reports(reports: Sequence[ParityReport]) -> ParityReport:
    """One report on a bundle of several models of one precision: the outputs of all, of each attention the worst."""
    first = reports[0]
    if len(reports) == 1:
        return first
    return replace(
        first,
        noise_floor=max(report.noise_floor for report in reports),
        tolerance=max(report.tolerance for report in reports),
        flips_psnr_db=min((r.flips_psnr_db for r in reports if r.flips_psnr_db is not None), default=None),
        outputs=tuple(output for report in reports for output in report.outputs),
        blocks=tuple(_joined(blocks) for blocks in zip(*(report.blocks for report in reports), strict=True)),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
    )


def _joined(blocks: Sequence[BlockParity]) -> BlockParity:
    """The same attention of several models: rows added up, figures the worst."""
    first, rows = blocks[0], sum(block.rows for block in blocks)

    def worst(figures: Iterable[float | None]) -> float | None:
        return max((figure for figure in figures if figure is not None), default=None)

    margins = [block.min_margin for block in blocks if block.min_margin is not None]
    return replace(
        first,
        rows=rows,
        agreement=sum(block.agreement * block.rows for block in blocks) / rows if rows else 1.0,
        near_ties=sum(block.near_ties for block in blocks),
        wrong=sum(block.wrong for block in blocks),
        min_margin=min(margins, default=None),
        affinity_error=worst(block.affinity_error for block in blocks),
        noise_floor=worst(block.noise_floor for block in blocks),
        tolerance=worst(block.tolerance for block in blocks),
    )
