"""`export_tensorrt`: typed models for TensorRT, judged on any machine, and engines where they can be built."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from debiexport._version import __version__
from debiexport.atomic import StagedFolder, check_destination, staged_folder
from debiexport.bundle import ENGINE, GOLDEN, MODEL, TIMING_CACHE, describe_file
from debiexport.cards import Card
from debiexport.errors import ParityError, UsageError
from debiexport.export.manifests import manifest_of
from debiexport.export.naming import default_output
from debiexport.export.result import ExportResult, UnverifiedExport
from debiexport.export.source import Loaded, Source, load, prepare
from debiexport.extras import TENSORRT as PACKAGES
from debiexport.extras import require
from debiexport.lowerings import TENSORRT_LOWERINGS, Lowering
from debiexport.manifest import MANIFEST, TENSORRT, Artifact
from debiexport.progress import Progress, silent
from debiexport.signature import IMAGES, NORMALIZED, input_spec, output_specs
from debiexport.targets.tensorrt.builders import NONE, Built, Request, build, request
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.version import TENSORRT as FULL

if TYPE_CHECKING:  # they need torch
    from debiexport.parity import Judgement
    from debiexport.parity_inputs import ParityImage

DEFAULT_PRECISION = "fp16"
MAX_PROFILES = 8
OPSET = 20
_VERSIONED = ("numpy", "onnx", "onnx-graphsurgeon", "onnxscript", "torch")


@dataclass(frozen=True)
class _Plan:
    """How the network is exported."""

    profiles: tuple[Profile, ...]
    precision: str
    lowering: Lowering
    engine: Request

    def file(self, profile: Profile, suffix: str) -> str:
        """Of a model or engine; its batches are in the name where there are several."""
        if len(self.profiles) == 1:
            return f"model.{suffix}"
        return f"model-b{str(profile).replace(':', '-')}.{suffix}"


def export_tensorrt(
    model: str | Path | Card,
    checkpoint: str | Path | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    batches: Sequence[Profile | int] = (1,),
    precision: str = DEFAULT_PRECISION,
    plugins: bool = False,
    engine: str | None = None,
    capabilities: Sequence[str] | None = None,
    timing_cache: str | Path | None = None,
    regions: int | None = None,
    top_k: Sequence[int] | None = None,
    bra_top_k: Sequence[int] | None = None,
    num_classes: int | None = None,
    labels: str | Path | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> ExportResult:
    """Export to typed ONNX for TensorRT, prove parity as the types say, build engines, and write a bundle.

    Inputs are float32 images, outputs float32, whatever the precision inside.

    Args:
        model, checkpoint, image_size, regions, top_k, bra_top_k, num_classes, labels, output, force, progress: see
            `export_onnx`.
        batches: images per run, each a number or a range as a `Profile`; each becomes a model and an engine.
        precision: "fp16" or "fp32".
        plugins: leave routed attention and the broadcast of the agents to the project's kernels; fixed batches only.
        engine: "tensorrt", "rtx" or "none"; None for what this machine can build.
        capabilities: GPUs of an engine of TensorRT for RTX, such as "sm89".
        timing_cache: a file that full TensorRT reads and renews.

    Raises:
        MissingDependencyError: torch or onnx-graphsurgeon are not installed, or the engine cannot be built here.
        UsageError, CardError, CheckpointError, OutputError: see `export_onnx`; also a kernel that does not cover the
            network, or a weight that float16 cannot hold.
        EngineError: TensorRT refuses the model, or cannot build it.
        UnverifiedExport: parity was lost; the folder is left with `.unverified` at its name's end.
        ParityError: an engine is not of the precision asked for.
    """
    require(PACKAGES, "exporting to TensorRT", "tensorrt")
    plan = _plan(batches, precision, plugins, engine, capabilities, timing_cache)
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
    destination = Path(output) if output is not None else _default_output(plan, source)
    check_destination(destination, force=force, marker=MANIFEST)
    _check_kernels(plan, source)
    if plan.engine.note is not None:
        progress(f"note: {plan.engine.note}")
    loaded = load(source, progress)

    with staged_folder(destination, force=force, marker=MANIFEST) as staged:
        _write(plan, loaded, staged.path, progress)
        loaded = loaded.without_weights()
        gc.collect()
        return _prove(plan, source, loaded, staged, progress)


def _plan(
    batches: Sequence[Profile | int],
    precision: str,
    plugins: bool,
    engine: str | None,
    capabilities: Sequence[str] | None,
    timing_cache: str | Path | None,
) -> _Plan:
    from debiexport.graph.typed.model import check_precision

    check_precision(precision)
    for batch in batches:
        if isinstance(batch, bool) or not isinstance(batch, int | Profile):
            raise UsageError(f"--batch is {batch!r}: give a whole number, or a range (in Python a Profile)")
    profiles = tuple(b if isinstance(b, Profile) else Profile(b, b, b) for b in batches)
    if not profiles or len(profiles) > MAX_PROFILES or len(set(profiles)) != len(profiles):
        raise UsageError(f"--batch is {','.join(map(str, profiles))}: give 1 to {MAX_PROFILES} different ones")
    ranges = [profile for profile in profiles if profile.is_range]
    if plugins and ranges:
        raise UsageError(
            f"--batch is {ranges[0]}, and sizes are constants of the kernels of --plugins: give one batch, or several"
            f" as {ranges[0].min},{ranges[0].max} (an engine each), or leave --plugins out"
        )
    asked = request(
        engine,
        capabilities,
        plugins=plugins,
        precision=precision,
        timing_cache=None if timing_cache is None else Path(timing_cache),
    )
    return _Plan(profiles, precision, TENSORRT_LOWERINGS["plugins" if plugins else "native"], asked)


def _default_output(plan: _Plan, source: Source) -> Path:
    first, *others = (str(profile).replace(":", "-") for profile in plan.profiles)
    ranged = [first] if plan.profiles[0].is_range else []
    variants = (*ranged, *others, plan.precision, *(["plugins"] if plan.engine.plugins else []))
    return default_output(source.given, source.size, plan.profiles[0].batch, target=TENSORRT, variants=variants)


def _check_kernels(plan: _Plan, source: Source) -> None:
    """Refuse a network that the kernels do not cover, before its weights are read.

    Raises:
        UsageError: saying why.
    """
    if not plan.engine.plugins:
        return
    from debiexport.geometry import Geometry
    from debiexport.static.slots import check_routing

    try:
        check_routing(plan.lowering, Geometry.of(source.given, source.size))
    except UsageError as error:
        raise UsageError(f"--plugins: {str(error).partition(';')[0]}; leave --plugins out") from error


def _write(plan: _Plan, loaded: Loaded, folder: Path, progress: Progress) -> None:
    """Write a typed model for every batch."""
    from debiexport.graph.typed import typed
    from debiexport.loading import build_reference
    from debiexport.static.network import StaticNetwork
    from debiexport.targets.onnx import to_onnx

    size = loaded.geometry.image_size
    progress(f"rewriting for {size[0]}x{size[1]} with the lowering {plan.lowering.name}")
    network = StaticNetwork.of(build_reference(loaded.weights, size), size, plan.lowering)
    properties = {**loaded.properties(plan.lowering, NORMALIZED), "version": __version__, "precision": plan.precision}
    for profile in plan.profiles:
        progress(f"converting to ONNX, typed as {plan.precision}, batch {profile}")
        model = typed(to_onnx(network, batch=profile.batch, opset=OPSET, properties=properties), plan.precision)
        (folder / plan.file(profile, "onnx")).write_bytes(model.SerializeToString(deterministic=True))


def _prove(plan: _Plan, source: Source, loaded: Loaded, staged: StagedFolder, progress: Progress) -> ExportResult:
    """Judge the written models against a reference built anew, build the engines, then finish the bundle."""
    from debiexport.golden import write_golden
    from debiexport.parity_report import join_reports

    models = tuple(_artifact(plan, loaded, profile, staged.path) for profile in plan.profiles)
    judgements, infinite = _judge(plan, source, loaded, models, staged.path, progress)
    report = join_reports([judgement.report for judgement in judgements])
    golden = staged.path / "golden.npz"
    write_golden(golden, replace(judgements[0], report=report))
    files = [*models, describe_file(golden, GOLDEN)]
    if not report.ok:
        manifest_of(TENSORRT, loaded, plan.lowering, files, report, _VERSIONED).write(staged.path)
        raise UnverifiedExport(staged.commit_unverified(), report, infinite)
    engines = []
    if plan.engine.kind != NONE:
        for profile in plan.profiles:
            progress(f"building an engine of {plan.file(profile, 'onnx')} ({plan.engine.kind})")
            engines.append(_build(plan, profile, staged.path, files, progress))
    manifest = manifest_of(TENSORRT, loaded, plan.lowering, files, report, _VERSIONED)
    manifest.write(staged.path)
    lost = _engine_loss(plan, staged.path, progress)
    if lost is not None:  # the folder's name may be changed, what the manifest says stays
        replace(manifest, parity=manifest.parity | {"ok": False}).write(staged.path)
        raise UnverifiedExport(staged.commit_unverified(), report, lost)
    notes = (*source.notes, *([] if plan.engine.note is None else [plan.engine.note]))
    return ExportResult(staged.commit(), manifest, report, notes, tuple(built.text for built in engines))


def _engine_loss(plan: _Plan, folder: Path, progress: Progress) -> str | None:
    """What is wrong with the outputs of engines that were built for this machine; None if nothing is."""
    if plan.engine.kind != FULL:
        return None
    from debiexport.bundle import open_bundle
    from debiexport.checking_engines import check_engines

    failures = [str(check) for check in check_engines(open_bundle(folder), progress) if check.failure is not None]
    return failures[0] if failures else None


def _judge(
    plan: _Plan, source: Source, loaded: Loaded, models: Sequence[Artifact], folder: Path, progress: Progress
) -> tuple[list[Judgement], str | None]:
    """Judge every model as its types say, and have ONNX Runtime take it, which computes float16 in float32.

    Returns:
        A judgement for each model, and where the first tensor that is not finite is made, if there is one.

    Raises:
        BundleError: ONNX Runtime refuses a model.
        ParityError: it gives something that is not finite, where the types would not explain it.
    """
    from debiexport.loading import build_reference
    from debiexport.oracle import Oracle
    from debiexport.parity import judge
    from debiexport.parity_inputs import parity_images
    from debiexport.runtimes.typed import EvaluatedModel

    size = loaded.geometry.image_size
    oracle = Oracle(build_reference(source.weights(), size))
    images = parity_images(loaded.card.preprocessing, size)
    judgements: list[Judgement] = []
    infinite = None
    for model, profile in zip(models, plan.profiles, strict=True):
        path = folder / model.path
        progress(f"proving parity by evaluating {model.path} as typed ({path.stat().st_size / 1e6:.1f} MB)")
        evaluated = EvaluatedModel(path, loaded.geometry, model)
        batches = tuple(dict.fromkeys((profile.min, profile.opt, profile.max)))
        judgements.append(judge(evaluated, oracle, loaded.geometry, images, plan.precision, batches))
        if judgements[-1].report.ok:
            _run_in_onnx_runtime(path, images, model.batch)
            continue
        batch = np.stack([images[i % len(images)].tensor for i in range(model.batch or 1)])
        found = evaluated.first_not_finite({IMAGES: batch})
        if found is not None and infinite is None:
            infinite = _not_finite(plan, model, *found)
    return judgements, infinite


def _not_finite(plan: _Plan, model: Artifact, node: str, tensor: str) -> str:
    where = f"in {model.path} {tensor!r} is the first tensor that is not finite"
    where += "" if node in ("", tensor) else f", made by {node}"
    if plan.precision == "fp16":
        return f"parity is lost: {where}: float16 ends at 65504, export with --precision fp32"
    return f"parity is lost: {where}"


def _run_in_onnx_runtime(path: Path, images: Sequence[ParityImage], batch: int | None) -> None:
    from debiexport.runtimes.ort import OrtRuntime

    given = np.stack([images[i % len(images)].tensor for i in range(batch or 1)])
    for name, output in OrtRuntime(path).run({IMAGES: given}).items():
        if not np.isfinite(output).all():
            raise ParityError(f"ONNX Runtime gives {name} of {path.name} with numbers that are not finite")


def _build(plan: _Plan, profile: Profile, folder: Path, files: list[Artifact], progress: Progress) -> Built:
    """Build the engine of one model and list its files."""
    engine, cache = folder / plan.file(profile, "plan"), folder / plan.file(profile, "timing")
    built = build(plan.engine, folder / plan.file(profile, "onnx"), profile, engine, cache, progress)
    progress(built.text)
    if built.record is not None:
        files.append(describe_file(engine, ENGINE, precision=plan.precision, engine=built.record.to_dict()))
    if cache.exists():
        files.append(describe_file(cache, TIMING_CACHE))
    return built


def _artifact(plan: _Plan, loaded: Loaded, profile: Profile, folder: Path) -> Artifact:
    size, batch = loaded.geometry.image_size, profile.batch
    return describe_file(
        folder / plan.file(profile, "onnx"),
        MODEL,
        batch=batch,
        precision=plan.precision,
        opset=OPSET,
        inputs=(input_spec(size, batch, NORMALIZED),),
        outputs=output_specs(loaded.geometry, batch),
    )
