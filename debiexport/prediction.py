"""Classify images with a bundle, and measure accuracy on a folder of them; torch is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from debiexport.bundle import Bundle, is_unverified, open_bundle
from debiexport.cards import card_names, load_card
from debiexport.departures import departure_note
from debiexport.errors import ImageError, UsageError
from debiexport.image_batches import ImageFailure, image_batches
from debiexport.metrics import top_classes
from debiexport.names import LOGITS
from debiexport.preprocess import load_image
from debiexport.progress import Progress, silent
from debiexport.runtimes.base import Array, Runtime
from debiexport.signature import IMAGES

MAX_LOSS = 0.005  # of top-1 that an export may cost


@dataclass(frozen=True)
class ClassScore:
    """One class of a prediction: its index, its label if known, and its softmax probability."""

    index: int
    label: str | None
    probability: float

    def to_dict(self) -> dict[str, Any]:
        return {"index": self.index, "label": self.label, "probability": float(f"{self.probability:.6g}")}

    def __str__(self) -> str:
        return f"{self.label or f'class {self.index}'} {self.probability:.1%}"


@dataclass(frozen=True)
class Prediction:
    """The best classes of one image, best first."""

    image: str
    classes: tuple[ClassScore, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"image": self.image, "classes": [score.to_dict() for score in self.classes]}

    def __str__(self) -> str:
        return f"{self.image}: {', '.join(map(str, self.classes))}"


@dataclass(frozen=True)
class PredictResult:
    """Predictions in the order of the images, warnings, and the images that could not be used."""

    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...]
    failures: tuple[ImageFailure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "predictions": [p.to_dict() for p in self.predictions],
            "notes": list(self.notes),
            "failures": [f.to_dict() for f in self.failures],
        }

    def __str__(self) -> str:
        return "; ".join(map(str, [*self.predictions, *self.failures]))


@dataclass(frozen=True)
class Accuracy:
    """Shares of images whose class is the best, or among the five best.

    `skipped` are files that could not be used; neither `images` nor the shares count them.
    """

    images: int
    top1: float
    top5: float
    skipped: tuple[ImageFailure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "top1": float(f"{self.top1:.6g}"),
            "top5": float(f"{self.top5:.6g}"),
            "skipped": [failure.to_dict() for failure in self.skipped],
        }

    def __str__(self) -> str:
        text = f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%} of {self.images} images"
        return f"{text}, skipped {len(self.skipped)}" if self.skipped else text


def predict(
    bundle: str | Path | Bundle,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    threads: int | None = None,
    keep_going: bool = False,
) -> PredictResult:
    """Classify image files with the card's preprocessing.

    Args:
        bundle: a bundle or its folder.
        images: files that pillow reads.
        top: classes per image.
        threads: of the runtime; None lets it choose.
        keep_going: list files that cannot be used in the result's `failures`, and predict the others; otherwise the
            first one is raised.

    Raises:
        UsageError: no images, `top` below 1, a file that does not exist, or a bundle without classes.
        ImageError: a file is not an image, or decodes to too many pixels.
        BundleError: a file of the bundle is missing, truncated or altered.
    """
    check_request(images, top)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    require_classes(opened, "predict")
    notes = weight_notes(opened)
    if is_unverified(opened):
        notes.append(f"{opened.path} lost parity when it was exported: do not rely on these predictions")
    failures: list[ImageFailure] = []
    predictions = [
        prediction_of(images[position], row, opened.manifest.labels, top)
        for positions, logits in _logits(opened, opened.runtime(threads), images, failures if keep_going else None)
        for position, row in zip(positions, logits, strict=True)
    ]
    return PredictResult(tuple(predictions), tuple(notes), tuple(failures))


def weight_notes(bundle: Bundle) -> list[str]:
    """What has to be said of a bundle's weights whenever it is used."""
    card, notes = bundle.manifest.card, []
    if bundle.manifest.checkpoint_sha256 is None:
        notes.append(f"the weights of {bundle.path} are {bundle.manifest.checkpoint}: its outputs mean nothing")
    if card.name in card_names():
        departure = departure_note(card, load_card(card.name))
        if departure is not None:
            notes.append(f"{bundle.path}: {departure}")
    return notes


def evaluate(
    bundle: Bundle,
    folder: str | Path,
    *,
    runtime: Runtime | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Accuracy:
    """Accuracy on a folder of class folders.

    A class folder is named by a label of the bundle, or, if the bundle has no labels, by a class index. Files
    that cannot be used are left out and listed in the result's `skipped`.

    Raises:
        UsageError: no such folder, no images in it, a class folder that names no class, or a bundle without
            classes.
        ImageError: not one of the files is an image.
    """
    files, classes = labelled_files(bundle, Path(folder))
    progress(f"measuring accuracy on {len(files)} images of {folder}")
    hits1 = hits5 = done = 0
    skipped: list[ImageFailure] = []
    for positions, logits in _logits(bundle, runtime or bundle.runtime(threads), files, skipped):
        wanted = np.array([classes[position] for position in positions])[:, None]
        best = top_classes(logits, 5)
        hits1 += int((best[:, :1] == wanted).sum())
        hits5 += int((best == wanted).sum())
        done += len(logits)
    if not done:
        raise ImageError(f"--eval {folder}: not one of its {len(files)} files can be used; the first: {skipped[0]}")
    return Accuracy(done, hits1 / done, hits5 / done, tuple(skipped))


def check_request(images: Sequence[str | Path], top: int) -> None:
    """Refuse what nothing can be predicted for.

    Raises:
        UsageError: no images, one path in the place of a list, or `top` below 1.
    """
    if isinstance(images, str | Path):
        raise UsageError(f"the images are {str(images)!r}: give a list of files")
    if not images:
        raise UsageError("no images: give at least one image file")
    if top < 1:
        raise UsageError(f"--top is {top}: give at least 1")


def prediction_of(path: str | Path, logits: Array, labels: Sequence[str] | None, top: int) -> Prediction:
    """The `top` best classes of logits (classes,), with softmax probabilities of float64."""
    wide = logits.astype(np.float64)
    shares = np.exp(wide - wide.max())
    shares /= shares.sum()
    best = top_classes(logits[None], top)[0]
    scores = (ClassScore(int(i), labels[i] if labels else None, float(shares[i])) for i in best)
    return Prediction(str(path), tuple(scores))


def require_classes(bundle: Bundle, asked: str) -> int:
    """The number of classes.

    Raises:
        UsageError: the bundle gives features.
    """
    count = bundle.manifest.card.num_classes
    if count is None:
        raise UsageError(f"{asked} needs classes, but {bundle.path} gives features: use a bundle of a classifier")
    return count


def _logits(
    bundle: Bundle, runtime: Runtime, files: Sequence[str | Path], failures: list[ImageFailure] | None
) -> Iterator[tuple[list[int], Array]]:
    """Positions of files and their logits, in batches that the artifact takes; a short last batch is filled up.

    A file that cannot be used is left out and appended to `failures`; where that is None, it is raised.
    """
    manifest = bundle.manifest

    def load(file: str | Path) -> Array:
        return load_image(file, manifest.card.preprocessing, manifest.image_size, manifest.input)

    for positions, images in image_batches(files, load, failures, batch=runtime.batch):
        yield positions, runtime.run({IMAGES: images})[LOGITS][: len(positions)]


def labelled_files(bundle: Bundle, folder: Path) -> tuple[list[str | Path], list[int]]:
    """Image files of a folder of class folders and the class of each; see `evaluate` for what it raises."""
    count = require_classes(bundle, "--eval")
    if not folder.is_dir():
        raise UsageError(f"--eval {folder} is not a folder: give a folder of class folders")
    manifest = bundle.manifest
    names = manifest.labels or tuple(map(str, range(count)))
    index = {name: i for i, name in enumerate(names)}
    files: list[str | Path] = []
    classes: list[int] = []
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if names.count(class_folder.name) > 1:
            raise UsageError(
                f"--eval {folder}: several classes of the bundle have the label {class_folder.name!r}: export with"
                f" --labels that tell them apart ({_repeated(names)})"
            )
        if class_folder.name not in index:
            kind = "labels" if manifest.labels else "class indices, since the bundle has no labels"
            raise UsageError(
                f"--eval {folder}: the folder {class_folder.name!r} names no class;"
                f" its folders must be {kind}, as {_some(names)}"
            )
        found = sorted(path for path in class_folder.iterdir() if path.is_file() and not path.name.startswith("."))
        files += found
        classes += [index[class_folder.name]] * len(found)
    if not files:
        if any(path.is_file() and not path.name.startswith(".") for path in folder.iterdir()):
            raise UsageError(
                f"--eval {folder} holds files and no class folders with images: give the folder that holds a folder for"
                f" every class, named as {_some(names)}"
            )
        raise UsageError(f"--eval {folder} holds no images: give a folder of class folders with images in them")
    return files, classes


def _some(names: Sequence[str]) -> str:
    """A few names that are each of one class only."""
    return ", ".join([name for name in names[:100] if names.count(name) == 1][:3] or names[:1])


def _repeated(names: Sequence[str]) -> str:
    """The labels of several classes, with the indices of these."""
    classes: dict[str, list[str]] = {}
    for index, name in enumerate(names):
        classes.setdefault(name, []).append(str(index))
    shared = [f"{name!r} is of {' and '.join(found)}" for name, found in classes.items() if len(found) > 1]
    return ", ".join(shared[:5]) + (f", and {len(shared) - 5} more" if len(shared) > 5 else "")
