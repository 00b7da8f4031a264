"""`check --bisect` of a Core ML bundle: the first place at which the evaluated package is off.

Only places are compared, see `places`: their values have stable names in the package, so they can be read while it is
evaluated. Its operations are not those of a graph that could be exported anew and compared part by part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from debiexport.bisecting import BisectResult
from debiexport.bundle import PACKAGE, Bundle
from debiexport.errors import UsageError
from debiexport.gates import find_gate
from debiexport.parity import judge
from debiexport.parity_inputs import parity_images
from debiexport.parity_report import join_reports
from debiexport.places import Part, measure_places, parts_of, without
from debiexport.progress import Progress
from debiexport.runtimes.coreml import read_saved
from debiexport.targets.coreml.identifiers import identifier

if TYPE_CHECKING:  # it needs torch
    from debiexport.checkpoint import Checkpoint


def bisect_package(
    bundle: Bundle, weights: Checkpoint, notes: list[str], *, threads: int | None, progress: Progress
) -> BisectResult:
    """Judge every model of the bundle, and measure the places of the first that lost parity, or else of the first.

    Args:
        bundle: of the target "coreml".
        weights: to recompute the reference from.
        notes: what a user should know so far.
        threads: of torch.
        progress: called with a line at each step.

    Raises:
        UsageError: its weights are compressed, or it has no places.
        BundleError: the package is damaged or cannot be evaluated.
        MissingDependencyError: coremltools is not installed.
    """
    from debiexport.loading import build_reference
    from debiexport.oracle import Oracle

    models, size = bundle.models, bundle.manifest.image_size
    gate = find_gate(models[0].precision)
    if not gate.judges_routes:
        raise UsageError(
            f"--bisect compares rounding, and {bundle.path} has weights of {gate.precision}, which change every place"
            " on purpose: bisect the same export with --precision fp16"
        )
    parts = _parts(bundle)
    oracle = Oracle(build_reference(weights, size))
    images = parity_images(bundle.manifest.card.preprocessing, size, bundle.manifest.input)
    progress("recomputing the reference and comparing route by route")
    runtimes = list(bundle.runtimes(threads))
    reports = [judge(runtime, oracle, bundle.geometry, images, gate.precision).report for runtime in runtimes]
    chosen = next((i for i, report in enumerate(reports) if not report.ok), 0)
    if len(models) > 1:
        notes.append(f"the places are those of the model for a batch of {models[chosen].batch}")
    progress(f"comparing {sum(len(part.places) for part in parts)} places")
    places = measure_places(runtimes[chosen], oracle, parts, images, reports[chosen].blocks, gate)
    report = join_reports(reports)
    if not report.ok and all(place.ok for place in places):
        notes.append("parity is lost, but no place left its tolerance where each image stood last in its batch")
    return BisectResult(bundle.path, report, tuple(places), None, (*notes, *report.notes), places_only=True)


def _parts(bundle: Bundle) -> list[Part]:
    """The parts of the network, as far as the package has their places."""
    model = bundle.models[0]
    named = read_saved(bundle.path / PACKAGE, model.sha256).function(model.function).types
    parts = parts_of(bundle.geometry)
    stream = [part.name for part in parts if not part.is_output]
    missing = {name for name in stream if identifier(name) not in named}
    if len(missing) == len(stream):
        raise UsageError(
            f"--bisect compares places, and {bundle.path}, of the lowering {bundle.manifest.lowering.name}, has none"
            " between its parts: bisect an export with --lowering ane"
        )
    return without(parts, missing)
