"""`check`: prove a bundle again, anywhere, and measure its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debiexport.bundle import GOLDEN, Bundle, open_bundle, sha256_of
from debiexport.cards import shipped_checkpoint
from debiexport.errors import ParityError, UsageError
from debiexport.extras import EXPORT, missing, require
from debiexport.parity import ParityReport
from debiexport.prediction import Accuracy, evaluate, labelled_files, weight_notes
from debiexport.progress import Progress, silent
from debiexport.runtimes.ort import CPU

if TYPE_CHECKING:  # it needs torch
    from debiexport.checkpoint import Checkpoint


@dataclass(frozen=True)
class CheckResult:
    """A bundle that holds what its manifest says.

    Attributes:
        path: its folder.
        parity: what was measured.
        accuracy: on a folder of images, if one was given.
        notes: what a user should know.
    """

    path: Path
    parity: ParityReport
    accuracy: Accuracy | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "parity": self.parity.to_dict(),
            "accuracy": None if self.accuracy is None else self.accuracy.to_dict(),
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
        advice = f"; {foreign[0]}: compare with that one" if foreign else "; do not deploy it, export again"
        super().__init__(f"{path}: {parity}{more}{advice}")
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

    Args:
        bundle: a bundle's folder.
        checkpoint: the file it was exported from.
        evaluate_on: a folder of class folders, to measure top-1 and top-5 on.
        threads: of the runtime; None lets it choose.
        progress: called with a line at each step.

    Raises:
        UsageError: no such folder or file, or accuracy is asked of a bundle without classes.
        BundleError: a file is missing, truncated or altered.
        MissingDependencyError: a checkpoint was given and torch is not installed.
        CheckFailed: parity is lost.
    """
    progress(f"checking the files of {bundle}")
    opened = open_bundle(bundle)
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
        report = judge_golden(opened.runtime(threads, provider), golden, opened.geometry)
    else:
        progress("recomputing the reference and comparing route by route")
        report = _judge_in_full(opened, source or None, threads, provider, foreign)
    if not report.ok:
        raise CheckFailed(opened.path, report, foreign)
    accuracy = None
    if evaluate_on is not None:
        accuracy = evaluate(opened, evaluate_on, threads=threads, progress=progress)
    return CheckResult(opened.path, report, accuracy, (*about_weights, *notes, *foreign, *report.notes))


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
    return judge(bundle.runtime(threads, provider), oracle, bundle.geometry, images).report
