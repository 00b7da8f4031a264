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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from debiexport.gates import FLOAT32, GATES, Gate, find_gate
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.metrics import cosine, psnr_db, relative_error, top_agreement
from debiexport.names import LOGITS
from debiexport.parity_inputs import ParityImage
from debiexport.parity_report import BlockParity, OutputParity, ParityReport
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
    batches: Sequence[int] | None = None,
) -> Judgement:
    """Measure an artifact against the reference recomputed from the checkpoint.

    Args:
        runtime: the artifact; run at its own batch, or at 1, 2 and 5 if its batch is dynamic.
        oracle: the reference.
        geometry: sizes of the network.
        images: in the form that the artifact takes.
        precision: of the artifact, see `gates`.
        batches: to run it at, which it has to take; by default see `batches_to_try`.

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
    for batch in batches or batches_to_try(runtime):
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
