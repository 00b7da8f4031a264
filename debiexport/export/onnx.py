"""`export_onnx`: one ONNX file for ONNX Runtime and whatever else reads it."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from debiexport._version import __version__
from debiexport.atomic import StagedFolder, check_destination, staged_folder
from debiexport.bundle import GOLDEN, MODEL, describe_file
from debiexport.cards import Card
from debiexport.errors import UsageError
from debiexport.export.manifests import manifest_of
from debiexport.export.naming import default_output
from debiexport.export.result import ExportResult, UnverifiedExport
from debiexport.export.source import Loaded, Source, load, prepare
from debiexport.extras import EXPORT, require
from debiexport.gates import FLOAT32
from debiexport.lowerings import DEFAULT, Lowering, find_lowering
from debiexport.manifest import MANIFEST, ONNX, Artifact
from debiexport.progress import Progress, silent
from debiexport.runtimes.session import RECOMMENDED
from debiexport.signature import NORMALIZED, check_input, input_spec, output_specs

MAX_BATCH = 1024
_VERSIONED = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")


@dataclass(frozen=True)
class _Plan:
    """How the network is exported."""

    batch: int | None
    opset: int
    lowering: Lowering
    input: str


def export_onnx(
    model: str | Path | Card,
    checkpoint: str | Path | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    batch: int | None = 1,
    opset: int = 20,
    regions: int | None = None,
    top_k: Sequence[int] | None = None,
    bra_top_k: Sequence[int] | None = None,
    num_classes: int | None = None,
    labels: str | Path | None = None,
    input: str = NORMALIZED,
    lowering: str = DEFAULT,
    output: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> ExportResult:
    """Export to ONNX, prove parity, and write a bundle.

    Args:
        model: a shipped card's name, the path of a card, or a card.
        checkpoint: a released or fine-tuned file; without one the weights that ship with the card,
            and if none do, seeded random ones.
        image_size: pixels, one side or (height, width), instead of the card's default.
        batch: images per run, or None for any number.
        opset: 18 to 20.
        regions, top_k, bra_top_k, num_classes: see `load_model`.
        labels: a text file with one label a line.
        input: "normalized" for float32 images (N, 3, H, W), normalised by the caller, or "uint8" for bytes
            (N, H, W, 3), normalised inside the model.
        lowering: name of a lowering.
        output: the bundle's folder; by default see `default_output`.
        force: replace an existing bundle.
        progress: called with a line at each step.

    Raises:
        MissingDependencyError: torch is not installed.
        UsageError, CardError, CheckpointError: see `load_model`; also an output that exists.
        OutputError: the folder cannot be written.
        UnverifiedExport: parity was lost; the folder is left with `.unverified` at its name's end.
    """
    require(EXPORT, "exporting", "export")
    from debiexport.loading import build_reference
    from debiexport.static.network import StaticNetwork
    from debiexport.static.slots import check_names
    from debiexport.targets.onnx import check_opset, to_onnx

    check_opset(opset)
    if batch is not None and not (isinstance(batch, int) and 1 <= batch <= MAX_BATCH):
        raise UsageError(f"--batch is {batch}: allowed are 1 to {MAX_BATCH}, or dynamic (in Python None)")
    choice = find_lowering(lowering)
    check_names(choice)
    plan = _Plan(batch, opset, choice, check_input(input))
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
    size = source.size
    variants = () if choice.name == DEFAULT else (choice.name,)
    named = default_output(source.given, size, batch, input, variants=variants)
    destination = Path(output) if output is not None else named
    check_destination(destination, force=force, marker=MANIFEST)
    loaded = load(source, progress)

    with staged_folder(destination, force=force, marker=MANIFEST) as staged:
        progress(f"rewriting for {size[0]}x{size[1]} with the lowering {choice.name}")
        network = StaticNetwork.of(build_reference(loaded.weights, size), size, choice, input=input)
        loaded = loaded.without_weights()
        progress(f"converting to ONNX, opset {opset}, batch {'dynamic' if batch is None else batch}")
        proto = to_onnx(network, batch=batch, opset=opset, properties=_properties(plan, loaded))
        del network
        path = staged.path / "model.onnx"
        path.write_bytes(proto.SerializeToString(deterministic=True))
        nodes = len(proto.graph.node)
        del proto
        gc.collect()
        progress(f"proving parity against the reference ({nodes} nodes, {path.stat().st_size / 1e6:.1f} MB)")
        return _prove(plan, source, loaded, path, staged)


def _properties(plan: _Plan, loaded: Loaded) -> dict[str, str]:
    """What the ONNX file says of itself."""
    return loaded.properties(plan.lowering, plan.input) | {"version": __version__}


def _prove(plan: _Plan, source: Source, loaded: Loaded, model: Path, staged: StagedFolder) -> ExportResult:
    """Judge the written file against a reference built anew, then finish the bundle."""
    from debiexport.golden import write_golden
    from debiexport.loading import build_reference
    from debiexport.oracle import Oracle
    from debiexport.parity import judge
    from debiexport.parity_inputs import parity_images
    from debiexport.runtimes.ort import OrtRuntime

    size = loaded.geometry.image_size
    runtime = OrtRuntime(model, session=RECOMMENDED)
    oracle = Oracle(build_reference(source.weights(), size))
    judgement = judge(runtime, oracle, loaded.geometry, parity_images(loaded.card.preprocessing, size, plan.input))
    report = judgement.report
    golden = staged.path / "golden.npz"
    write_golden(golden, judgement)
    artifacts = (_model_artifact(plan, loaded, model), describe_file(golden, GOLDEN))
    manifest = manifest_of(
        ONNX, loaded, plan.lowering, artifacts, report, _VERSIONED, input=plan.input, session=RECOMMENDED
    )
    manifest.write(staged.path)
    if not report.ok:
        raise UnverifiedExport(staged.commit_unverified(), report)
    return ExportResult(staged.commit(), manifest, report, source.notes)


def _model_artifact(plan: _Plan, loaded: Loaded, path: Path) -> Artifact:
    return describe_file(
        path,
        MODEL,
        batch=plan.batch,
        precision=FLOAT32,
        opset=plan.opset,
        inputs=(input_spec(loaded.geometry.image_size, plan.batch, plan.input),),
        outputs=output_specs(loaded.geometry, plan.batch),
    )
