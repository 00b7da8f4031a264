"""`check --bisect`: where a model stops computing what the checkpoint means.

First the place: the affinities, routes, residual stream and outputs are compared in order with the reference forced
to the artifact's routes (`places`). Then the operation: the model is compared, part by part, with the graph that
the same export makes of the checkpoint here (`operations`), and what differs in the node is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from debiexport._version import __version__
from debiexport.bundle import MODEL, Bundle, open_bundle, sha256_of
from debiexport.checking import bundle_folder, checkpoint_of, reference_weights
from debiexport.errors import BundleError, DebiexportError, ParityError, UsageError
from debiexport.extras import EXPORT, require
from debiexport.gates import find_gate
from debiexport.graph.differences import GraphDifference, compare_graphs
from debiexport.manifest import COREML, MANIFEST, TENSORRT, Artifact, read_manifest
from debiexport.operations import Comparison, Operation, Runner, find_operation, load_stretch
from debiexport.parity import judge
from debiexport.parity_inputs import parity_images
from debiexport.parity_report import ParityReport, join_reports
from debiexport.places import Part, PlaceParity, look_inside, measure_places, parts_of, runs, without
from debiexport.prediction import weight_notes
from debiexport.progress import Progress, silent
from debiexport.runtimes.base import Arrays
from debiexport.runtimes.ort import CPU

if TYPE_CHECKING:  # they need torch
    from debiexport.checkpoint import Checkpoint


@dataclass(frozen=True)
class BisectResult:
    """Where a bundle's model leaves its tolerance, if anywhere.

    Attributes:
        path: the bundle's folder.
        parity: what was measured of the whole, as by `check`.
        places: every place that was measured, in order.
        operation: the first that does not compute what it should; None if none was found or searched for.
        notes: what a user should know.
        places_only: whether no operation is searched for, as in a Core ML package.
    """

    path: Path
    parity: ParityReport
    places: tuple[PlaceParity, ...]
    operation: Operation | None
    notes: tuple[str, ...]
    places_only: bool = False

    @property
    def ok(self) -> bool:
        """Whether parity holds."""
        return self.parity.ok

    @property
    def first(self) -> PlaceParity | None:
        """The first place that leaves its tolerance."""
        return next((place for place in self.places if not place.ok), None)

    @property
    def worst(self) -> PlaceParity:
        """The place with the largest error beside its tolerance."""
        return max(self.places, key=lambda place: place.ratio)

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "parity": self.parity.to_dict(),
            "first": None if self.first is None else self.first.to_dict(),
            "operation": None if self.operation is None else self.operation.to_dict(),
            "worst": self.worst.to_dict(),
            "places": [place.to_dict() for place in self.places],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        if self.first is None:
            return f"{self.path}: {self.parity}; none of {len(self.places)} places leaves its tolerance"
        where = self.first.name if self.operation is None else f"{self.first.name}, operation {self.operation.name}"
        return f"{self.path}: {self.parity}; first off at {where}"


class BisectFailed(ParityError):
    """A bundle that lost parity, and where.

    Attributes:
        result: what was found.
        parity: what was measured of the whole.
    """

    def __init__(self, result: BisectResult) -> None:
        super().__init__(str(result))
        self.result, self.parity = result, result.parity


def bisect(
    bundle: str | Path,
    checkpoint: str | Path | None = None,
    *,
    threads: int | None = None,
    provider: str = CPU,
    progress: Progress = silent,
) -> BisectResult:
    """Find the first place, and then the first operation, at which a bundle's model is off.

    Of a Core ML bundle the package is evaluated, and the first place is all that is searched for. Of a TensorRT bundle
    the typed models are evaluated, and the first of them that lost parity is searched.

    The reference is recomputed, so torch and the weights are needed: a checkpoint, or those that ship or are
    random. A lost parity is no exception here: see `BisectResult.ok`.

    Args:
        bundle: a bundle's folder.
        checkpoint: the file it was exported from.
        threads, provider: of the runtime, see `check`.
        progress: called with a line at each step.

    Raises:
        MissingDependencyError: torch is not installed.
        UsageError: no path, no such folder or file, the weights are not here, or a Core ML package is of a kind that
            cannot be compared place by place.
        CheckpointError: the checkpoint is broken or of another network.
        BundleError: a file is missing, truncated or altered, the model lacks the stable names, or cannot be run.
    """
    require(EXPORT, "finding where parity is lost", "export")
    from debiexport.loading import build_reference
    from debiexport.oracle import Oracle

    folder = bundle_folder(bundle)
    progress(f"checking the files of {folder}")
    opened = _open(folder)
    notes = list(weight_notes(opened))
    source = checkpoint_of(opened, checkpoint, [])
    if source is None:
        raise UsageError(
            f"--bisect recomputes the reference, and the weights of {opened.path} ({opened.manifest.checkpoint}) are"
            " not here: give --checkpoint"
        )
    weights = reference_weights(opened, source or None, notes)
    if opened.manifest.target == COREML:
        from debiexport.bisecting_coreml import bisect_package

        return bisect_package(opened, weights, notes, threads=threads, progress=progress)
    size = opened.manifest.image_size
    oracle = Oracle(build_reference(weights, size))
    images = parity_images(opened.manifest.card.preprocessing, size, opened.manifest.input)
    artifact, gate = opened.models[0], find_gate(opened.models[0].precision)
    model = _read(opened, artifact)
    parts = _parts(opened, model, notes)
    try:
        reports = []
        progress("recomputing the reference and comparing route by route")
        for artifact, runtime in zip(opened.models, opened.runtimes(threads, provider), strict=True):
            model = _read(opened, artifact)
            reports.append(judge(runtime, oracle, opened.geometry, images, gate.precision).report)
            if not reports[-1].ok:
                break
        if len(opened.models) > 1:
            notes.append(f"the places are those of {artifact.path}")
        report = join_reports(reports)
        progress(f"comparing {sum(len(part.places) for part in parts)} places")
        places = measure_places(runtime, oracle, parts, images, reports[-1].blocks, gate)
    except BundleError as error:  # it cannot be run, but it can be read
        raise _explained(error, compare_graphs(model, expected_model(opened, weights, artifact))) from error
    del oracle
    off = next((place for place in places if not place.ok), None)
    operation = None
    if off is not None:
        progress("exporting the checkpoint again, for comparing operation by operation")
        try:
            expected = expected_model(opened, weights, artifact)
        except UsageError as error:  # a lowering of another version
            notes.append(f"the operations cannot be compared, since the bundle cannot be exported here: {error}")
        else:
            difference = compare_graphs(model, expected)
            if difference.structure:
                notes.append(_structure_note(opened, difference.structure))
            load: Runner = partial(load_stretch, threads=threads, provider=provider)
            if opened.manifest.target == TENSORRT:
                load = _evaluate_stretch
            operation, said = find_operation(
                Comparison(model, expected, difference, parts, load),
                off.name,
                lambda: ((run, look_inside(runtime, run, parts)) for run in runs(runtime, images)),
            )
            notes += said
    elif not report.ok:
        notes.append("parity is lost, but no place left its tolerance where each image stood last in its batch")
    return BisectResult(opened.path, report, tuple(places), operation, (*notes, *report.notes))


_COMPUTED = (MODEL, "weights")  # roles of the files that the numbers come from


def _open(folder: Path) -> Bundle:
    """Open a bundle; where its model is not that of the manifest, the error says how to bisect it all the same."""
    try:
        return open_bundle(folder)
    except BundleError as error:
        try:
            computed = [a for a in read_manifest(folder).artifacts if a.role in _COMPUTED]
            found = [(a, sha256_of(folder / a.path), (folder / a.path).stat().st_size) for a in computed]
        except (DebiexportError, OSError):  # there is no model to be bisected
            raise error from None
        altered = [(a, digest, size) for a, digest, size in found if (digest, size) != (a.sha256, a.bytes)]
        if not altered:
            raise
        artifact, digest, size = altered[0]
        raise BundleError(
            f"{error}; if a tool was to change it, bisect it as it is: in the entry of {artifact.path} in"
            f" {folder / MANIFEST} set sha256 to {digest} and bytes to {size}"
        ) from error


def _read(bundle: Bundle, artifact: Artifact) -> onnx.ModelProto:
    return onnx.load(str(bundle.path / artifact.path), load_external_data=False)


def _evaluate_stretch(stretch: onnx.ModelProto) -> Callable[[Arrays], Arrays]:
    """A `Runner` that computes a stretch as its types say, which no runtime on a CPU does in float16."""
    from debiexport.evaluate.onnx.evaluator import OnnxEvaluator

    evaluator = OnnxEvaluator(stretch)
    return lambda tensors: evaluator.run({name: tensors[name] for name in evaluator.inputs})


def expected_model(bundle: Bundle, weights: Checkpoint, artifact: Artifact | None = None) -> onnx.ModelProto:
    """The graph that is exported here of a checkpoint, with the size, lowering, batch and opset of a bundle.

    Args:
        artifact: the model whose graph it should be; by default the first.
    """
    from debiexport.loading import build_reference
    from debiexport.static.network import StaticNetwork
    from debiexport.targets.onnx import DEFAULT_OPSET, to_onnx

    artifact = artifact or bundle.models[0]
    manifest, size = bundle.manifest, bundle.manifest.image_size
    network = StaticNetwork.of(build_reference(weights, size), size, manifest.lowering, input=manifest.input)
    model = to_onnx(network, batch=artifact.batch, opset=artifact.opset or DEFAULT_OPSET)
    if manifest.target != TENSORRT:
        return model
    from debiexport.graph.typed import typed

    return typed(model, artifact.precision)


def _parts(bundle: Bundle, model: onnx.ModelProto, notes: list[str]) -> list[Part]:
    """The parts of a model, as far as it has their places."""
    made = {name for node in model.graph.node for name in node.output}
    parts = parts_of(bundle.geometry)
    stream = [part.name for part in parts if not part.is_output]
    missing = [name for name in stream if name not in made]
    if len(missing) == len(stream):
        raise BundleError(
            f"{bundle.file(MODEL)} has no tensor {missing[0]!r} nor any other of the {len(stream)} places between its"
            " parts: a tool renamed them; bisect the model as it was exported"
        )
    if missing:
        places = "1 place is" if len(missing) == 1 else f"{len(missing)} places are"
        notes.append(
            f"{places} not in the model, their parts count to the next: {missing[0]}" + ", …" * (len(missing) > 1)
        )
    return without(parts, set(missing))


def _explained(error: BundleError, difference: GraphDifference) -> BundleError:
    """The error of a model that cannot be run, with the first difference from the graph that can."""
    if difference.changed:
        name, (text, *_) = next(iter(difference.changed.items()))
        return BundleError(f"{error}; it is not the graph of the checkpoint: in {name}, {text}")
    if difference:
        return BundleError(f"{error}; it is not the graph of the checkpoint: {difference.structure}")
    return error


def _structure_note(bundle: Bundle, structure: str) -> str:
    """That the graph has other operations, and the versions that may be why."""
    made, here = bundle.manifest.versions, {"debiexport": __version__, "torch": version("torch")}
    others = [f"{name} {made[name]}, here {here[name]}" for name in here if made.get(name, here[name]) != here[name]]
    note = f"the model's graph is not the one that is exported here: {structure}"
    return f"{note}; it was made with {' and '.join(others)}" if others else note
