"""`export_coreml`: a Core ML package for the Neural Engine, proven where there is no Mac."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debiexport._version import __version__
from debiexport.atomic import StagedFolder, check_destination, staged_folder
from debiexport.bundle import GOLDEN, MODEL, PACKAGE, describe_file
from debiexport.cards import Card
from debiexport.errors import UsageError
from debiexport.export.manifests import manifest_of
from debiexport.export.naming import default_output
from debiexport.export.result import ExportResult, UnverifiedExport
from debiexport.export.source import Loaded, Source, load, prepare
from debiexport.extras import COREML as COREML_PACKAGES
from debiexport.extras import require
from debiexport.lowerings import COREML_DEFAULT, COREML_LOWERINGS, PLAIN, Lowering
from debiexport.manifest import COREML, MANIFEST, Artifact
from debiexport.progress import Progress, silent
from debiexport.signature import COREML_INPUTS, IMAGE, NORMALIZED, check_input, input_spec, output_specs
from debiexport.targets.coreml.choices import DEFAULT_TARGET, Precision, check_target, find_precision
from debiexport.targets.coreml.identifiers import function_name, identifiers

if TYPE_CHECKING:  # they need torch
    from debiexport.targets.coreml.traced import Traced

MAX_BATCH = 64
MAX_BATCHES = 8
_VERSIONED = ("coremltools", "numpy", "torch")
_DTYPES = {"fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class _Plan:
    """How the network is exported."""

    batches: tuple[int, ...]
    precision: Precision
    target: str
    lowering: Lowering
    input: str

    def function(self, batch: int) -> str | None:
        return function_name(batch) if len(self.batches) > 1 else None


def export_coreml(
    model: str | Path | Card,
    checkpoint: str | Path | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    batches: Sequence[int] = (1,),
    precision: str = "fp16",
    target: str = DEFAULT_TARGET,
    regions: int | None = None,
    top_k: Sequence[int] | None = None,
    bra_top_k: Sequence[int] | None = None,
    num_classes: int | None = None,
    labels: str | Path | None = None,
    input: str = NORMALIZED,
    lowering: str = COREML_DEFAULT,
    evaluate_on: str | Path | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> ExportResult:
    """Export to Core ML, prove parity by evaluating the saved package, and write a bundle.

    Args:
        model, checkpoint, image_size, regions, top_k, bra_top_k, num_classes, labels, output, force, progress: see
            `export_onnx`.
        batches: images per run; several become functions of one package.
        precision: "fp16", "fp32", or fp16 with weights of "int8", "palette6" or "palette4".
        target: the oldest system that has to run it: "iOS16", "iOS17" or "iOS18" (macOS 13, 14, 15).
        input: "normalized" for a tensor (N, 3, H, W), normalised by the caller, or "image" for one RGB image,
            normalised inside; with labels the package then is a classifier.
        lowering: "ane", "gather" or "plain".
        evaluate_on: a folder of class folders. Compressed weights may cost half a point of accuracy there against the
            network before compression, no more.

    Raises:
        MissingDependencyError: torch or coremltools are not installed, or coremltools does not go with numpy.
        UsageError, CardError, CheckpointError, OutputError: see `export_onnx`.
        UnverifiedExport: parity was lost, or accuracy; the folder is left with `.unverified` at its name's end.
    """
    require(COREML_PACKAGES, "exporting to Core ML", "coreml")
    from debiexport.runtimes.coreml import check_numpy

    check_numpy()
    plan = _plan(batches, precision, target, input, lowering)
    source = prepare(
        model,
        checkpoint,
        image_size=image_size,
        regions=regions,
        top_k=top_k,
        bra_top_k=bra_top_k,
        num_classes=num_classes,
        labels=labels,
    )
    if evaluate_on is not None:
        _check_evaluation(source, Path(evaluate_on))
    destination = Path(output) if output is not None else _default_output(plan, source)
    check_destination(destination, force=force, marker=MANIFEST)
    _check_lowering(plan.lowering, source)
    loaded = load(source, progress)

    with staged_folder(destination, force=force, marker=MANIFEST) as staged:
        _write(plan, loaded, staged.path / PACKAGE, progress)
        loaded = loaded.without_weights()
        gc.collect()
        return _prove(plan, source, loaded, staged, evaluate_on, progress)


def _plan(batches: Sequence[int], precision: str, target: str, input: str, lowering: str) -> _Plan:
    chosen = find_precision(precision)
    check_input(input, COREML_INPUTS)
    if lowering not in COREML_LOWERINGS:
        raise UsageError(f"--lowering is {lowering!r}: give one of {', '.join(COREML_LOWERINGS)}")
    if not batches or len(batches) > MAX_BATCHES or len(set(batches)) != len(batches):
        raise UsageError(f"--batch is {','.join(map(str, batches))}: give 1 to {MAX_BATCHES} different numbers")
    for batch in batches:
        if not 1 <= batch <= MAX_BATCH:
            raise UsageError(
                f"--batch is {batch}: allowed are 1 to {MAX_BATCH}; Core ML packages have no dynamic batch"
            )
    if input == IMAGE and tuple(batches) != (1,):
        raise UsageError("--input image takes one image a run: leave --batch out, or give --input normalized")
    check_target(target, chosen, len(batches))
    return _Plan(tuple(batches), chosen, target, COREML_LOWERINGS[lowering], input)


def _check_evaluation(source: Source, folder: Path) -> None:
    """Refuse a folder that accuracy cannot be measured on, as far as that can be said before the export."""
    if source.given.num_classes is None:
        raise UsageError(f"--eval needs classes, but {source.given.name} gives features: leave it out")
    if not folder.is_dir():
        raise UsageError(f"--eval {folder} is not a folder: give a folder of class folders")


def _default_output(plan: _Plan, source: Source) -> Path:
    lowering = () if plan.lowering == COREML_LOWERINGS[COREML_DEFAULT] else (plan.lowering.name,)
    variants = (*lowering, *(str(b) for b in plan.batches[1:]), plan.precision.name)
    return default_output(source.given, source.size, plan.batches[0], plan.input, target=COREML, variants=variants)


def _check_lowering(lowering: Lowering, source: Source) -> None:
    """Refuse a lowering that does not fit the network, before its weights are read.

    Raises:
        UsageError: saying why.
    """
    if lowering == PLAIN:
        return
    from debiexport.geometry import Geometry
    from debiexport.static.slots import check_routing

    check_routing(lowering, Geometry.of(source.given, source.size))


def _write(plan: _Plan, loaded: Loaded, package: Path, progress: Progress) -> None:
    """Convert for every batch, and write the package."""
    from debiexport.loading import build_reference
    from debiexport.targets.coreml.compress import compress
    from debiexport.targets.coreml.convert import convert
    from debiexport.targets.coreml.functions import merged
    from debiexport.targets.coreml.package import write_package

    size = loaded.geometry.image_size
    progress(f"rewriting for {size[0]}x{size[1]} with the lowering {plan.lowering.name}")
    network = _traced(plan, loaded, build_reference(loaded.weights, size))
    models = {}
    for batch in plan.batches:
        progress(f"converting to Core ML, {plan.target}, {plan.precision.compute}, batch {batch}")
        converted = convert(network, (batch, 3, *size), plan.precision, plan.target, image=plan.input == IMAGE)
        if plan.precision.compression is not None:
            progress(f"compressing the weights to {plan.precision.name}")
        models[batch] = compress(converted, plan.precision)
    with merged(models) as (spec, weights):
        if network.classifier:
            from debiexport.targets.coreml.classifier import add_classifier

            assert loaded.labels is not None
            add_classifier(spec, loaded.labels)
        write_package(
            spec,
            weights,
            package,
            keep=_kept(loaded, classifier=network.classifier),
            properties={**loaded.properties(plan.lowering, plan.input), "version": __version__},
            description=f"{loaded.card.name}, exported by debiexport {__version__}",
        )


def _traced(plan: _Plan, loaded: Loaded, reference: Any) -> Traced:
    from debiexport.plain import NamedReference
    from debiexport.static.network import StaticNetwork
    from debiexport.targets.coreml.traced import NamedStatic, Traced

    size = loaded.geometry.image_size
    named = (
        NamedReference(reference)
        if plan.lowering == PLAIN
        else NamedStatic(StaticNetwork.of(reference, size, plan.lowering))
    )
    image = plan.input == IMAGE
    preprocessing = loaded.card.preprocessing if image else None
    return Traced(named, preprocessing, classifier=image and loaded.labels is not None)


def _kept(loaded: Loaded, *, classifier: bool) -> list[str]:
    """The package's outputs."""
    if not classifier:
        return list(identifiers(loaded.geometry.output_shapes).values())
    from debiexport.targets.coreml.classifier import CLASS_LABEL, CLASS_PROBABILITIES

    return [CLASS_LABEL, CLASS_PROBABILITIES]


def _prove(
    plan: _Plan,
    source: Source,
    loaded: Loaded,
    staged: StagedFolder,
    evaluate_on: str | Path | None,
    progress: Progress,
) -> ExportResult:
    """Judge the written package against a reference built anew, then finish the bundle."""
    from debiexport.golden import write_golden
    from debiexport.loading import build_reference
    from debiexport.oracle import Oracle
    from debiexport.parity import judge
    from debiexport.parity_inputs import parity_images
    from debiexport.parity_report import join_reports
    from debiexport.placement.report import placement_of
    from debiexport.runtimes.coreml import EvaluatedPackage, read_saved

    size, package = loaded.geometry.image_size, staged.path / PACKAGE
    megabytes = sum(file.stat().st_size for file in package.rglob("*") if file.is_file()) / 1e6
    progress(f"proving parity by evaluating the saved package ({megabytes:.1f} MB)")
    oracle = Oracle(build_reference(source.weights(), size))
    images = parity_images(loaded.card.preprocessing, size, plan.input)
    models = _artifacts(plan, loaded, package)
    judgements = [
        judge(
            EvaluatedPackage(package, loaded.geometry, artifact), oracle, loaded.geometry, images, plan.precision.name
        )
        for artifact in models
    ]
    report = join_reports([judgement.report for judgement in judgements])
    golden = staged.path / "golden.npz"
    write_golden(golden, replace(judgements[0], report=report))
    placement = placement_of(read_saved(package, models[0].sha256), package, models[0].function)
    others = (
        describe_file(package / "Manifest.json", "package", f"{PACKAGE}/Manifest.json"),
        describe_file(_weights(package), "weights", str(_weights(package).relative_to(staged.path).as_posix())),
        describe_file(golden, GOLDEN),
    )
    manifest = manifest_of(
        COREML,
        loaded,
        plan.lowering,
        (*models, *others),
        report,
        _VERSIONED,
        {"least_system": plan.target},
        input=plan.input,
        placement=placement.to_dict(),
    )
    manifest.write(staged.path)
    why = None
    notes = list(source.notes)
    if report.ok and evaluate_on is not None:
        why = _accuracy_loss(plan, staged.path, source, loaded, evaluate_on, notes, progress)
    if not report.ok or why is not None:
        raise UnverifiedExport(staged.commit_unverified(), report, why)
    return ExportResult(staged.commit(), manifest, report, tuple(notes))


def _artifacts(plan: _Plan, loaded: Loaded, package: Path) -> tuple[Artifact, ...]:
    """One entry a batch, all of the same file."""
    from debiexport.targets.coreml.package import MODEL_FILE

    dtype, size = _DTYPES[plan.precision.compute], loaded.geometry.image_size
    return tuple(
        describe_file(
            package / MODEL_FILE,
            MODEL,
            f"{PACKAGE}/{MODEL_FILE}",
            batch=batch,
            precision=plan.precision.name,
            function=plan.function(batch),
            inputs=(input_spec(size, batch, plan.input, dtype),),
            outputs=output_specs(loaded.geometry, batch, dtype),
        )
        for batch in plan.batches
    )


def _weights(package: Path) -> Path:
    from debiexport.targets.coreml.package import WEIGHTS_FILE

    return package / WEIGHTS_FILE


def _accuracy_loss(
    plan: _Plan,
    folder: Path,
    source: Source,
    loaded: Loaded,
    evaluate_on: str | Path,
    notes: list[str],
    progress: Progress,
) -> str | None:
    """What is wrong with the accuracy; None if it is no more than `MAX_LOSS` below that of the reference."""
    from debiexport.bundle import open_bundle
    from debiexport.loading import build_reference
    from debiexport.prediction import MAX_LOSS, evaluate
    from debiexport.runtimes.eager import EagerRuntime

    bundle = open_bundle(folder)
    reference = EagerRuntime(build_reference(source.weights(), loaded.geometry.image_size))
    progress(f"measuring the accuracy of the network before export on {evaluate_on}")
    before = evaluate(bundle, evaluate_on, runtime=reference)
    progress(f"measuring the accuracy of the package on {evaluate_on}")
    after = evaluate(bundle, evaluate_on)
    said = f"top-1 {after.top1:.2%} of {after.images} images, {before.top1:.2%} before the export"
    notes.append(f"accuracy on {evaluate_on}: {said}")
    if before.top1 - after.top1 > MAX_LOSS:
        return f"accuracy is lost: {said}, and {plan.precision.name} may cost {100 * MAX_LOSS:g} points"
    return None
