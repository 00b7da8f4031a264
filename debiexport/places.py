"""Places of a network: how far an artifact is off at each of them, in the order in which they are computed.

The places are those with stable names: the affinities and the routes of every attention that chooses, the
residual stream after every part, and the outputs. Both sides take the artifact's routes, so nothing jumps. At each
place the tolerance is measured as for the outputs, see `parity`: a multiple of the rounding noise there, in the
artifact's precision, see `gates`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from debiexport.gates import FLOAT32, GATES, Gate
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.metrics import relative_error
from debiexport.names import LOGITS, feature_name, stage_name, stream_names
from debiexport.parity import batches_to_try
from debiexport.parity_inputs import ParityImage
from debiexport.parity_report import BlockParity, json_value
from debiexport.routes import as_routes, forceable
from debiexport.runtimes.base import Array, Arrays, Runtime
from debiexport.signature import IMAGES

if TYPE_CHECKING:  # it needs torch
    from debiexport.oracle import Oracle


@dataclass(frozen=True)
class Part:
    """What is computed between two places of the residual stream, or between the stream and an output.

    Attributes:
        name: the place at its end.
        sites: attentions in it that choose.
        is_output: whether its place is an output.
    """

    name: str
    sites: tuple[AttentionGeometry, ...] = ()
    is_output: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """Stable names in the order in which they are computed; the last is the part's own."""
        return (*(name for a in self.sites for name in (a.site.affinity, a.site.routes)), self.name)


@dataclass(frozen=True)
class PlaceParity:
    """One place of the artifact against the reference forced to the artifact's routes.

    Errors are the largest of all images and batch sizes: relative errors, see `metrics`, but of affinities
    relative to their largest spread, see `parity_report.BlockParity`. Routes have rows instead.

    Attributes:
        name: the stable name.
        shape: of one image, as the artifact has it.
        error: of the artifact; infinite where it is not finite or has another shape.
        noise_floor: of the reference, float32 against float64; of the stream and outputs scaled to the rounding unit
            of the artifact.
        tolerance: what `error` may be.
        rows: query regions compared.
        wrong: rows that differ by more than rounding explains.
    """

    name: str
    shape: tuple[int, ...]
    error: float | None = None
    noise_floor: float | None = None
    tolerance: float | None = None
    rows: int | None = None
    wrong: int | None = None

    @property
    def ratio(self) -> float:
        """The error over the tolerance; of routes infinite where a row is wrong."""
        if self.error is None or self.tolerance is None:
            return math.inf if self.wrong else 0.0
        return self.error / self.tolerance

    @property
    def ok(self) -> bool:
        return self.ratio <= 1

    def to_dict(self) -> dict[str, Any]:
        """`error` is null where it is infinite."""
        data = {key: json_value(value) for key, value in vars(self).items()}
        return data | {"shape": list(self.shape), "ok": self.ok}

    def __str__(self) -> str:
        where = f"{self.name} {shape_text(('N', *self.shape))}"
        if self.error is None or self.tolerance is None:
            return f"{where}: {self.wrong} of {self.rows} regions are routed wrongly"

        return f"{where}: error {self.error:.1e} is {self.ratio:.3g} times the tolerance {self.tolerance:.1e}"


def parts_of(geometry: Geometry) -> list[Part]:
    """Every part of a network, in order: the stream's, and a dense backbone's features beside the stages they end."""
    card = geometry.card
    choosing = {a.name: (a,) for a in geometry.routed if not a.routes_everywhere}
    names = list(stream_names(card))
    parts: list[Part] = []
    for i in range(len(card.stages)):
        stage = [name for name in names if name.startswith(f"{stage_name(i)}.")]
        parts += [Part(name, choosing.get(name, ())) for name in stage]
        if card.num_classes is None:
            parts.append(Part(feature_name(i), is_output=True))
    return parts if card.num_classes is None else [*parts, Part(LOGITS, is_output=True)]


def without(parts: Sequence[Part], missing: set[str]) -> list[Part]:
    """The parts of a model that lacks some places of the stream: what ended there belongs to the part after it.

    Args:
        parts: of the network.
        missing: stable names, none of an output.
    """
    kept: list[Part] = []
    sites: tuple[AttentionGeometry, ...] = ()
    for part in parts:
        sites += part.sites
        if part.name not in missing:
            kept.append(replace(part, sites=sites))
            sites = ()
    return kept


@dataclass(frozen=True)
class Run:
    """One run of an artifact that is looked at.

    Attributes:
        image: stands last in the batch.
        batch: images in it.
        stacked: the batch as the artifact takes it.
    """

    image: ParityImage
    batch: int
    stacked: Array

    def __str__(self) -> str:
        return f"image {self.image.name}, batch {self.batch}"


def runs(runtime: Runtime, images: Sequence[ParityImage]) -> Iterator[Run]:
    """Every image last in a batch of others, at every batch size that is tried; all of one image together."""
    for i, image in enumerate(images):
        for batch in batches_to_try(runtime):
            group = [images[(i - j) % len(images)] for j in reversed(range(batch))]
            yield Run(image, batch, np.stack([other.input for other in group]))


class _Tally:
    """The worst of one place."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape: tuple[int, ...] = ()
        self.error = self.noise = 0.0

    def add(self, actual: Array, narrow: Array, wide: Array) -> None:
        """All (1, ...)."""
        self.shape = actual.shape[1:]
        error = relative_error(actual, narrow) if actual.shape == narrow.shape else math.inf
        self.error = max(self.error, math.inf if math.isnan(error) else error)
        self.noise = max(self.noise, relative_error(narrow, wide))

    def result(self, gate: Gate) -> PlaceParity:
        floor = max(self.noise * gate.unit, gate.epsilon)
        return PlaceParity(self.name, self.shape, self.error, floor, gate.factor * floor)


def measure_places(
    runtime: Runtime,
    oracle: Oracle,
    parts: Sequence[Part],
    images: Sequence[ParityImage],
    blocks: Sequence[BlockParity],
    gate: Gate = GATES[FLOAT32],
) -> list[PlaceParity]:
    """Measure every place of the parts, in order.

    Args:
        runtime: the artifact.
        oracle: the reference.
        parts: of the network, each with its end in the artifact.
        images: in the form that the artifact takes.
        blocks: what `parity.judge` found of the affinities and routes.
        gate: of the artifact's precision.

    Raises:
        BundleError: the artifact has no tensor of a place's name.
    """
    tallies = {part.name: _Tally(part.name) for part in parts}
    sites = [site for part in parts for site in part.sites]
    for run in runs(runtime, images):
        found = {name: array[-1:] for name, array in look_inside(runtime, run, parts).items()}
        routes = {a.name: forceable(as_routes(found[a.site.routes], a), a) for a in sites}
        answer = oracle.inside(run.image.tensor, routes)
        for name, tally in tallies.items():
            tally.add(found[name], answer.narrow[name], answer.wide[name])
    of_blocks = {block.name: block for block in blocks}
    places: list[PlaceParity] = []
    for part in parts:
        for site in part.sites:
            places += _routing_places(site, of_blocks[site.name])
        places.append(tallies[part.name].result(gate))
    return places


def look_inside(runtime: Runtime, run: Run, parts: Sequence[Part]) -> Arrays:
    """Every place of the parts in one run, by stable name.

    The outputs are of a run that nobody looks into: to look may change what a runtime fuses.
    """
    taps = [name for part in parts if not part.is_output for name in part.places]
    inputs = {IMAGES: run.stacked}
    return runtime.run(inputs, taps) | runtime.run(inputs)


def shape_text(shape: Sequence[int | str]) -> str:
    """A shape for a message."""
    return f"({', '.join(map(str, shape))})"


def _routing_places(site: AttentionGeometry, block: BlockParity) -> list[PlaceParity]:
    """The affinities and the routes of one attention, which `parity.judge` has measured."""
    r = site.region_count
    affinity = PlaceParity(site.site.affinity, (r, r), block.affinity_error, block.noise_floor, block.tolerance)
    return [affinity, PlaceParity(site.site.routes, (r, site.top_k), rows=block.rows, wrong=block.wrong)]
