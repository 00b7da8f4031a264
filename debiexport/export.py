"""A checkpoint becomes a verified bundle."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from debiexport._version import __version__
from debiexport.atomic import StagedFolder, check_destination, staged_folder
from debiexport.bundle import GOLDEN, MODEL, describe_file
from debiexport.cards import Card
from debiexport.cost import cost_note
from debiexport.errors import ParityError, UsageError
from debiexport.extras import EXPORT, require
from debiexport.geometry import Geometry, check_image_size
from debiexport.labels import read_labels, shipped_labels
from debiexport.lowerings import Lowering, find_lowering
from debiexport.manifest import MANIFEST, Artifact, Manifest
from debiexport.parity import ParityReport
from debiexport.progress import Progress, silent
from debiexport.runtimes.session import RECOMMENDED
from debiexport.signature import NORMALIZED, check_input, input_spec, output_specs

MAX_BATCH = 1024
_VERSIONED = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")


@dataclass(frozen=True)
class ExportResult:
    """A bundle that was written and proven.

    Attributes:
        path: its folder.
        manifest: what it holds.
        parity: what was measured.
        notes: what a user should know.
    """

    path: Path
    manifest: Manifest
    parity: ParityReport
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"bundle": str(self.path), "manifest": self.manifest.to_dict(), "notes": list(self.notes)}

    def __str__(self) -> str:
        return f"{self.path}: {self.parity}"


class UnverifiedExport(ParityError):
    """An export whose artifact lost parity; it was left, marked, for a look.

    Attributes:
        path: of the folder that was left, ending in `.unverified`.
        parity: what was measured.
    """

    def __init__(self, path: Path, parity: ParityReport) -> None:
        super().__init__(f"{parity}; the artifact is not usable and was left in {path} for inspection")
        self.path, self.parity = path, parity


@dataclass(frozen=True)
class _Plan:
    """Everything an export needs, checked before work begins."""

    geometry: Geometry
    batch: int | None
    opset: int
    lowering: Lowering
    checkpoint: str
    checkpoint_sha256: str | None
    labels: tuple[str, ...] | None
    input: str
    notes: tuple[str, ...]

    @property
    def card(self) -> Card:
        return self.geometry.card


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
    lowering: str = "cpu",
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
        output: the bundle's folder; by default `artifacts/NAME-onnx-HxW-bN`, and `-uint8` for that input.
        force: replace an existing bundle.
        progress: called with a line at each step.

    Raises:
        MissingDependencyError: torch is not installed.
        UsageError, CardError, CheckpointError: see `load_model`; also an output that exists.
        OutputError: the folder cannot be written.
        UnverifiedExport: parity was lost; the folder is left with `.unverified` at its name's end.
    """
    require(EXPORT, "exporting", "export")
    from debiexport.loading import as_image_size, build_reference, load_weights, resolve_card
    from debiexport.static.network import StaticNetwork
    from debiexport.targets.onnx import check_opset, to_onnx

    check_opset(opset)
    if batch is not None and not (isinstance(batch, int) and 1 <= batch <= MAX_BATCH):
        raise UsageError(f"--batch is {batch}: allowed are 1 to {MAX_BATCH}, or dynamic (None in Python)")
    choice = find_lowering(lowering)
    check_input(input)
    size = None if image_size is None else as_image_size(image_size)
    card = resolve_card(model, regions=regions, top_k=top_k, bra_top_k=bra_top_k, num_classes=num_classes)
    size = size or check_image_size(card.default_image_size)
    if labels is not None and card.num_classes is None:
        raise UsageError(f"--labels was given, but {card.name} gives features and no classes: leave it out")
    destination = Path(output) if output is not None else default_output(card, size, batch, input)
    check_destination(destination, force=force, marker=MANIFEST)

    costly = cost_note(Geometry.of(card, size), resolve_card(model))
    if costly is not None:
        progress(f"note: {costly}")
    progress(f"reading the weights of {card.name}")
    weights = load_weights(card, checkpoint, num_classes)
    if weights.sha256 is None:
        progress(
            f"WARNING: no checkpoint was given: the weights are {weights.description} and the outputs mean nothing"
        )
    else:
        kind = "features" if weights.card.num_classes is None else f"{weights.card.num_classes} classes"
        progress(f"weights: {weights.description}, SHA-256 {weights.sha256[:12]}…, {kind}")
    names = _labels(weights.card, labels, trained=weights.sha256 is not None)
    geometry = Geometry.of(weights.card, size)
    notes = () if costly is None else (costly,)
    plan = _Plan(geometry, batch, opset, choice, weights.description, weights.sha256, names, input, notes)

    with staged_folder(destination, force=force, marker=MANIFEST) as staged:
        progress(f"rewriting for {size[0]}x{size[1]} with the lowering {choice.name}")
        reference = build_reference(weights, size)
        del weights
        network = StaticNetwork.of(reference, size, choice, input=input)
        del reference
        progress(f"converting to ONNX, opset {opset}, batch {'dynamic' if batch is None else batch}")
        proto = to_onnx(network, batch=batch, opset=opset, properties=_properties(plan))
        del network
        path = staged.path / "model.onnx"
        path.write_bytes(proto.SerializeToString(deterministic=True))
        nodes = len(proto.graph.node)
        del proto
        gc.collect()
        progress(f"proving parity against the reference ({nodes} nodes, {path.stat().st_size / 1e6:.1f} MB)")
        return _prove(plan, path, staged, lambda: load_weights(card, checkpoint, num_classes), progress)


def default_output(card: Card, size: tuple[int, int], batch: int | None, input: str = NORMALIZED) -> Path:
    """Where a bundle goes if nobody says."""
    name = f"{card.name}-onnx-{size[0]}x{size[1]}-b{'dynamic' if batch is None else batch}"
    return Path("artifacts") / (name if input == NORMALIZED else f"{name}-{input}")


def _labels(card: Card, file: str | Path | None, *, trained: bool) -> tuple[str, ...] | None:
    """The labels of a file, or those that ship with a card's trained weights."""
    if card.num_classes is None:
        return None
    if file is not None:
        return read_labels(file, card.num_classes)
    return shipped_labels(card.name, card.num_classes) if trained else None


def _properties(plan: _Plan) -> dict[str, str]:
    """What the ONNX file says of itself."""
    return {
        "card": json.dumps(plan.card.to_dict(), sort_keys=True),
        "checkpoint": plan.checkpoint,
        "checkpoint_sha256": plan.checkpoint_sha256 or "",
        "image_size": "x".join(map(str, plan.geometry.image_size)),
        "input": plan.input,
        "lowering": json.dumps(plan.lowering.to_dict(), sort_keys=True),
        "version": __version__,
    }


def _prove(plan: _Plan, model: Path, staged: StagedFolder, reload: Any, progress: Progress) -> ExportResult:
    """Judge the written file against a reference built anew, then finish the bundle."""
    from debiexport.golden import write_golden
    from debiexport.loading import build_reference
    from debiexport.oracle import Oracle
    from debiexport.parity import judge
    from debiexport.parity_inputs import parity_images
    from debiexport.runtimes.ort import OrtRuntime

    size = plan.geometry.image_size
    runtime = OrtRuntime(model, session=RECOMMENDED)
    oracle = Oracle(build_reference(reload(), size))
    judgement = judge(runtime, oracle, plan.geometry, parity_images(plan.card.preprocessing, size, plan.input))
    report = judgement.report
    golden = staged.path / "golden.npz"
    write_golden(golden, judgement)
    manifest = _manifest(plan, (_model_artifact(plan, model), describe_file(golden, GOLDEN)), report)
    manifest.write(staged.path)
    if not report.ok:
        raise UnverifiedExport(staged.commit_unverified(), report)
    return ExportResult(staged.commit(), manifest, report, plan.notes)


def _model_artifact(plan: _Plan, path: Path) -> Artifact:
    return describe_file(
        path,
        MODEL,
        batch=plan.batch,
        precision="float32",
        opset=plan.opset,
        inputs=(input_spec(plan.geometry.image_size, plan.batch, plan.input),),
        outputs=output_specs(plan.geometry, plan.batch),
    )


def _manifest(plan: _Plan, artifacts: tuple[Artifact, ...], report: ParityReport) -> Manifest:
    return Manifest(
        target="onnx",
        card=plan.card,
        checkpoint=plan.checkpoint,
        checkpoint_sha256=plan.checkpoint_sha256,
        image_size=plan.geometry.image_size,
        artifacts=artifacts,
        lowering=plan.lowering,
        versions={name: version(name) for name in _VERSIONED} | {"debiexport": __version__},
        labels=plan.labels,
        parity=report.to_dict(),
        input=plan.input,
        session=RECOMMENDED,
    )
