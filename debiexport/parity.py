"""Parity: does the artifact compute what the checkpoint means? Judged with the routing in mind.

Top-k makes small errors jump: a rounding error that flips one near-tie changes everything after it. So
the artifact runs first; the reference then runs **forced to the artifact's routes**. Outputs are compared
with that run, in which nothing jumps. Each routed block's own choice is compared in the same run, in which
nothing upstream differs: a different set of regions is a near-tie if the affinities involved are closer
than the block's affinity error, and an error otherwise. One legitimate flip so neither condemns the blocks
after it nor hides in a wide tolerance.

Tolerances are not chosen but measured: `FACTOR` times the reference's own rounding noise, float32 against
float64 with the same routes, on the same images; for the outputs and for each block's affinities. Artifacts of lower
precision have gates of their own, see `gates`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from debiexport.gates import FLOAT32, GATES, Gate, find_gate
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.metrics import cosine, psnr_db, relative_error, top_agreement
from debiexport.names import LOGITS
from debiexport.parity_inputs import ParityImage
from debiexport.routes import as_routes, compare_routes, forceable, route_gaps
from debiexport.runtimes.base import Array, Arrays, Runtime
from debiexport.signature import IMAGES

if TYPE_CHECKING:  # it needs torch, and the golden file is judged without
    from debiexport.oracle import Answer, Oracle

FACTOR = GATES[FLOAT32].factor
"""How many times the reference's own rounding noise an artifact of the same precision may be off."""

EPSILON = GATES[FLOAT32].epsilon
LOWEST_FLIP_PSNR = 120.0
"""In dB; what differs less between two runs of the reference is rounding."""

DYNAMIC_BATCHES = (1, 2, 5)


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


@dataclass(frozen=True)
class JudgedImage:
    """One image as the artifact and the forced reference saw it: what a golden file keeps.

    Attributes:
        name: of the image.
        image: as the artifact takes it: (3, H, W) float32, or (H, W, 3) of bytes.
        outputs: of the reference in float32 with the artifact's routes, by output name, without the batch.
        routes: (R, k) of the artifact by attention.
        gaps: (R,) between the k-th and (k+1)-th affinity of the reference, by attention.
    """

    name: str
    image: Array
    outputs: dict[str, Array]
    routes: dict[str, Array]
    gaps: dict[str, Array]


@dataclass(frozen=True)
class Judgement:
    """A report, the images it rests on, and per attention the gap that rounding explains."""

    report: ParityReport
    images: tuple[JudgedImage, ...]
    tie_limits: dict[str, float]


class _BlockTally:
    """Adds up what the runs say of one routed attention."""

    def __init__(self, geometry: AttentionGeometry, gate: Gate) -> None:
        self.geometry, self.gate = geometry, gate
        self.pairs: list[tuple[Array, Array]] = []  # (routes, reference affinity), both of one image
        self.error = self.noise = self.width = 0.0
        self.magnitude = 0.0

    def add(self, routes: Array, affinity: Array, answer: Answer) -> None:
        reference, wide = answer.affinities[self.geometry.name], answer.wide_affinities[self.geometry.name]
        self.pairs.append((routes, reference))
        difference = float(np.abs(affinity.astype(np.float64) - reference).max())
        self.error = max(self.error, difference if math.isfinite(difference) else math.inf)
        self.noise = max(self.noise, float(np.abs(wide - reference).max()))
        self.width = max(self.width, float((reference.max(-1) - reference.min(-1)).max()))
        self.magnitude = max(self.magnitude, float(np.abs(reference).max()))

    @property
    def tolerance(self) -> float:
        """What the affinity error may be, in the affinity's unit."""
        return self.gate.factor * max(self.noise * self.gate.unit, self.gate.epsilon * self.magnitude)

    @property
    def tie_limit(self) -> float:
        """Two affinities closer than this may change places: each is off by the affinity error at most."""
        return 2 * (min(self.error, self.tolerance) if self.gate.judges_routes else self.error)

    @property
    def golden_limit(self) -> float:
        """The same for runs elsewhere, whose error is not known."""
        return 2 * (self.tolerance if self.gate.judges_routes else max(self.tolerance, self.error))

    def result(self) -> BlockParity:
        g = self.geometry
        if not self.pairs:
            return BlockParity(g.name, g.region_count, g.top_k)
        routes, affinities = (np.concatenate(arrays) for arrays in zip(*self.pairs, strict=True))
        count = compare_routes(routes, affinities, g, self.tie_limit)
        unit = max(self.width, float(np.finfo(np.float32).tiny))
        return BlockParity(
            name=g.name,
            regions=g.region_count,
            top_k=g.top_k,
            rows=count.rows,
            agreement=count.agreement,
            near_ties=count.near_ties,
            wrong=count.wrong,
            min_margin=count.min_margin,
            affinity_error=self.error / unit,
            noise_floor=self.noise / unit,
            tolerance=self.tolerance / unit if self.gate.judges_routes else None,
        )


def judge(
    runtime: Runtime,
    oracle: Oracle,
    geometry: Geometry,
    images: Sequence[ParityImage],
    precision: str = FLOAT32,
) -> Judgement:
    """Measure an artifact against the reference recomputed from the checkpoint.

    Args:
        runtime: the artifact; run at its own batch, or at 1, 2 and 5 if its batch is dynamic.
        oracle: the reference.
        geometry: sizes of the network.
        images: in the form that the artifact takes.
        precision: of the artifact, see `gates`.

    Raises:
        BundleError: the artifact lacks a tensor that its routing is judged by.
    """
    gate = find_gate(precision)
    choosing = [a for a in geometry.routed if not a.routes_everywhere]
    tallies = {a.name: _BlockTally(a, gate) for a in geometry.routed}
    taps = [name for a in choosing for name in (a.site.affinity, a.site.routes)]
    outputs: list[OutputParity] = []
    kept: dict[str, JudgedImage] = {}
    floor, flips = EPSILON, math.inf
    for batch in batches_to_try(runtime):
        tally = OutputTally(batch)
        for indices in index_groups(len(images), batch):
            group = [images[i] for i in indices]
            stacked = np.stack([image.input for image in group])
            results = runtime.run({IMAGES: stacked})
            inside = runtime.run({IMAGES: stacked}, taps)
            for i, image in enumerate(group):
                routes = {a.name: as_routes(inside[a.site.routes][i : i + 1], a) for a in choosing}
                safe = {a.name: forceable(routes[a.name], a) for a in choosing}
                answer = oracle.forced(image.tensor, safe)
                if gate.min_psnr_db is not None and image.name not in kept:
                    free = oracle.free(image.tensor)
                    flips = min(flips, *(psnr_db(answer.outputs[name], free[name]) for name in free))
                for name, output in answer.outputs.items():
                    floor = max(floor, relative_error(output, answer.wide_outputs[name]))
                tally.add({name: results[name][i : i + 1] for name in answer.outputs}, answer.outputs)
                for a in choosing:
                    tallies[a.name].add(routes[a.name], inside[a.site.affinity][i : i + 1], answer)
                kept.setdefault(image.name, _judged(image, answer, safe, choosing))
        outputs.append(tally.result())
    report = ParityReport(
        method="reference",
        precision=precision,
        noise_floor=floor,
        tolerance=FACTOR * floor,
        outputs=tuple(outputs),
        blocks=tuple(tally.result() for tally in tallies.values()),
        min_psnr_db=gate.min_psnr_db,
        flips_psnr_db=flips if flips < LOWEST_FLIP_PSNR else None,
    )
    return Judgement(report, tuple(kept.values()), {a.name: tallies[a.name].golden_limit for a in choosing})


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


def batches_to_try(runtime: Runtime) -> Sequence[int]:
    """The artifact's own batch, or three of them where any is taken."""
    return DYNAMIC_BATCHES if runtime.batch is None else (runtime.batch,)


def index_groups(count: int, batch: int) -> list[list[int]]:
    """Indices of full batches that hold every image, wrapping round."""
    starts = range(0, count, batch)
    return [[(start + i) % count for i in range(batch)] for start in starts]


def _judged(image: ParityImage, answer: Answer, routes: Arrays, choosing: Sequence[AttentionGeometry]) -> JudgedImage:
    gaps = {a.name: route_gaps(answer.affinities[a.name], a)[0].astype(np.float32) for a in choosing}
    outputs = {name: output[0] for name, output in answer.outputs.items()}
    return JudgedImage(image.name, image.input, outputs, {n: r[0] for n, r in routes.items()}, gaps)


class OutputTally:
    """Compares outputs image by image, all at one batch size, and keeps the worst of each figure."""

    def __init__(self, batch: int) -> None:
        self.batch, self.images, self.finite = batch, 0, True
        self._error, self._output = -math.inf, ""
        self._psnr, self._cosine = math.inf, math.inf
        self._logits: list[tuple[Array, Array]] = []

    def add(self, results: Arrays, reference: Arrays) -> None:
        """The outputs (1, ...) of one run image, by output name."""
        self.images += 1
        for name, expected in reference.items():
            result = results[name]
            self.finite &= bool(np.isfinite(result).all())
            error = relative_error(result, expected)
            error = math.inf if math.isnan(error) else error  # of a reference that is not finite
            if error > self._error:
                self._error, self._output = error, name
            self._psnr = min(self._psnr, psnr_db(result, expected))
            self._cosine = min(self._cosine, cosine(result, expected)) if self.finite else math.nan
            if name == LOGITS:
                self._logits.append((result, expected))

    def result(self) -> OutputParity:
        return OutputParity(
            batch=self.batch,
            images=self.images,
            finite=self.finite,
            output=self._output,
            relative_error=self._error,
            psnr_db=self._psnr,
            cosine=self._cosine,
            top1_agreement=self._agreement(1),
            top5_agreement=self._agreement(5),
        )

    def _agreement(self, k: int) -> float | None:
        if not self._logits:
            return None
        a, b = (np.concatenate(arrays) for arrays in zip(*self._logits, strict=True))
        return top_agreement(a, b, k) if self.finite else 0.0
