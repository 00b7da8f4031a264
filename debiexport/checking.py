"""`check`: prove a bundle again, anywhere, and measure its accuracy."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debiexport.bundle import GOLDEN, Bundle, open_bundle, sha256_of
from debiexport.cards import shipped_checkpoint
from debiexport.errors import ParityError, UsageError
from debiexport.extras import EXPORT, missing, require
from debiexport.manifest import COREML, TENSORRT
from debiexport.parity_report import ParityReport, join_reports
from debiexport.prediction import Accuracy, evaluate, labelled_files, weight_notes
from debiexport.progress import Progress, silent
from debiexport.runtimes.ort import CPU

if TYPE_CHECKING:  # they need torch, or are of Core ML bundles only
    from debiexport.checking_engines import EngineCheck
    from debiexport.checking_units import UnitCheck
    from debiexport.checkpoint import Checkpoint
    from debiexport.placement.report import PlacementReport


@dataclass(frozen=True)
class CheckResult:
    """A bundle that holds what its manifest says.

    Attributes:
        path: its folder.
        parity: what was measured.
        accuracy: on a folder of images, if one was given.
        notes: what a user should know.
        placement: what a Core ML package asks of the Neural Engine, counted here; None for other bundles.
        units: on a Mac, what Core ML itself gives on each choice of compute units; empty elsewhere.
        engines: what the engines of a TensorRT bundle give on this machine's GPU; empty where they cannot run.
    """

    path: Path
    parity: ParityReport
    accuracy: Accuracy | None
    notes: tuple[str, ...]
    placement: PlacementReport | None = None
    units: tuple[UnitCheck, ...] = ()
    engines: tuple[EngineCheck, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "parity": self.parity.to_dict(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
            "placement": None if self.placement is None else self.placement.to_dict(),
            "units": [unit.to_dict() for unit in self.units],
            "engines": [engine.to_dict() for engine in self.engines],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return f"{self.path}: {self.parity}" + (f"; {self.accuracy}" if self.accuracy else "")


class CheckFailed(ParityError):
    """A bundle that lost parity.

    Attributes:
        parity: what was measured.
    """

    def __init__(self, path: Path, parity: ParityReport, foreign: Sequence[str] = ()) -> None:
        more = f" and {len(parity.failures) - 1} more failures" if len(parity.failures) > 1 else ""
        advice = (
            f"{foreign[0]}: compare with that one"
            if foreign
            else "do not deploy it, export again; to see where it is lost, with torch and the weights:"
            f" debiexport check {shlex.quote(str(path))} --bisect"
        )
        super().__init__(f"{path}: {parity}{more}; {advice}")
        self.path, self.parity = path, parity


def check(
    bundle: str | Path,
    checkpoint: str | Path | None = None,
    *,
    evaluate_on: str | Path | None = None,
    threads: int | None = None,
    provider: str = CPU,
    progress: Progress = silent,
) -> CheckResult:
    """Check a bundle's files and its parity.

    With a checkpoint (and torch) the reference is recomputed; so it is where the weights can be had
    without one, since they ship with the card or are seeded random. Otherwise the stored answers judge.
    Of a Core ML bundle the package is evaluated; on a Mac Core ML then runs it too, on each choice of compute units.
    Of a TensorRT bundle the typed models are evaluated; where its engines can run, they are run too.

    Args:
        bundle: a bundle's folder.
        checkpoint: the file it was exported from.
        evaluate_on: a folder of class folders, to measure top-1 and top-5 on.
        threads: of the runtime; None lets it choose.
        progress: called with a line at each step.

    Raises:
        UsageError: no path, no such folder or file, or accuracy is asked of a bundle without classes.
        BundleError: a file is missing, truncated or altered.
        MissingDependencyError: a checkpoint was given and torch is not installed, or what evaluates a Core ML package
            is not.
        CheckFailed: parity is lost.
        UnitsFailed: on a Mac, Core ML gives other numbers on some compute units, or none.
        EnginesFailed: an engine gives other numbers, or none.
    """
    folder = bundle_folder(bundle)
    progress(f"checking the files of {folder}")
    opened = open_bundle(folder)
    if evaluate_on is not None:
        labelled_files(opened, Path(evaluate_on))  # refused now rather than after the proof
    about_weights = weight_notes(opened)
    notes: list[str] = []
    foreign: list[str] = []  # what is known of a checkpoint that is not the exported one
    source = checkpoint_of(opened, checkpoint, notes)
    if source is None:
        from debiexport.golden import judge_golden, read_golden

        progress("comparing with the stored answers of the reference")
        golden = read_golden(opened.file(GOLDEN), opened.geometry, opened.manifest.input)
        runtimes = opened.runtimes(threads, provider)
        report = join_reports([judge_golden(runtime, golden, opened.geometry) for runtime in runtimes])
    else:
        progress("recomputing the reference and comparing route by route")
        report = _judge_in_full(opened, source or None, threads, provider, foreign)
    if not report.ok:
        raise CheckFailed(opened.path, report, foreign)
    result = CheckResult(opened.path, report, None, (*about_weights, *notes, *foreign, *report.notes))
    if opened.manifest.target == COREML:
        result = _with_core_ml(result, opened, progress)
    if opened.manifest.target == TENSORRT:
        result = _with_engines(result, opened, progress)
    if evaluate_on is not None:
        result = replace(result, accuracy=evaluate(opened, evaluate_on, threads=threads, progress=progress))
    return result


def _with_core_ml(result: CheckResult, bundle: Bundle, progress: Progress) -> CheckResult:
    """What only a Core ML bundle has: its placement, and on a Mac what Core ML gives."""
    from debiexport.bench.coreml_units import UnitsFailed
    from debiexport.checking_placement import check_placement
    from debiexport.checking_units import check_units, why_not_asked

    notes: list[str] = []
    result = replace(result, placement=check_placement(bundle, notes))
    absent = why_not_asked()
    if absent is None:
        result = replace(result, units=check_units(bundle, progress=progress))
    else:
        notes.append(absent)
    result = replace(result, notes=(*result.notes, *notes))
    failures = [str(unit) for unit in result.units if unit.failure is not None]
    if failures:
        raise UnitsFailed(bundle.path, failures, result)
    return result


def _with_engines(result: CheckResult, bundle: Bundle, progress: Progress) -> CheckResult:
    """What only a TensorRT bundle has: what its engines give."""
    from debiexport.checking_engines import EnginesFailed, check_engines, why_not_run

    absent = why_not_run(bundle)
    if absent is not None:
        return replace(result, notes=(*result.notes, absent))
    result = replace(result, engines=check_engines(bundle, progress))
    failures = [str(engine) for engine in result.engines if engine.failure is not None]
    if failures:
        raise EnginesFailed(bundle.path, failures, result)
    return result


def bundle_folder(bundle: object) -> Path:
    """The folder that was given as a bundle.

    Raises:
        UsageError: it is no path.
    """
    if not isinstance(bundle, str | os.PathLike):
        raise UsageError(f"the bundle is {bundle!r}: give the path of a folder that an export wrote")
    return Path(bundle)


_RANDOM = ""


def checkpoint_of(bundle: Bundle, given: str | Path | None, notes: list[str]) -> str | Path | None:
    """The checkpoint to recompute the reference from, "" for random weights, None for neither; the notes say why."""
    manifest = bundle.manifest
    if given is not None:
        require(EXPORT, "checking against a checkpoint", "export")
        return given
    if missing(EXPORT):
        notes.append("torch is not installed here: judged by the stored answers")
        return None
    if manifest.checkpoint_sha256 is None:
        return _RANDOM
    shipped = shipped_checkpoint(manifest.card.name)
    if shipped is not None and sha256_of(shipped) == manifest.checkpoint_sha256:
        return shipped
    notes.append("judged by the stored answers; give --checkpoint to recompute the reference")
    return None


def reference_weights(bundle: Bundle, checkpoint: str | Path | None, foreign: list[str]) -> Checkpoint:
    """The weights to recompute the reference from; None for random ones. `foreign` is told if they are others.

    Raises:
        UsageError, CheckpointError: no such file, a broken one, or one of another network.
    """
    from debiexport.checkpoint import random_checkpoint, read_checkpoint

    card = bundle.manifest.card
    exported = bundle.manifest.checkpoint
    weights = (
        random_checkpoint(card) if checkpoint is None else read_checkpoint(checkpoint, card, exported_from=exported)
    )
    if weights.card.num_classes != card.num_classes:
        raise UsageError(
            f"--checkpoint has {weights.card.num_classes} classes, the bundle {card.num_classes}:"
            f" give the one that it was exported from, {bundle.manifest.checkpoint}"
        )
    if weights.sha256 != bundle.manifest.checkpoint_sha256:
        of_the_export = bundle.manifest.checkpoint
        foreign.append(f"{weights.description} is not the file that was exported ({of_the_export})")
    return weights


def _judge_in_full(
    bundle: Bundle, checkpoint: str | Path | None, threads: int | None, provider: str, foreign: list[str]
) -> ParityReport:
    from debiexport.loading import build_reference
    from debiexport.oracle import Oracle
    from debiexport.parity import judge
    from debiexport.parity_inputs import parity_images

    size = bundle.manifest.image_size
    oracle = Oracle(build_reference(reference_weights(bundle, checkpoint, foreign), size))
    images = parity_images(bundle.manifest.card.preprocessing, size, bundle.manifest.input)
    precision = bundle.models[0].precision
    runtimes = bundle.runtimes(threads, provider)
    return join_reports([judge(runtime, oracle, bundle.geometry, images, precision).report for runtime in runtimes])
