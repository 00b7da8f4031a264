"""What every export begins with: the card and size, the weights, and the labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from debiexport.cards import Card, card_names, load_card, shipped_checkpoint
from debiexport.cost import cost_note
from debiexport.departures import departure_note
from debiexport.errors import UsageError
from debiexport.geometry import Geometry, check_image_size
from debiexport.labels import check_file as check_labels
from debiexport.labels import read_labels, shipped_labels
from debiexport.lowerings import Lowering
from debiexport.progress import Progress

if TYPE_CHECKING:  # it needs torch
    from debiexport.checkpoint import Checkpoint


@dataclass(frozen=True)
class Source:
    """What is exported, every option checked that can be without reading the weights.

    Attributes:
        given: the card with the options applied; the checkpoint may have another number of classes.
        size: (height, width).
        checkpoint: a file, or None.
        num_classes: as asked.
        labels: a file, or None.
        notes: what a user should know.
    """

    given: Card
    size: tuple[int, int]
    checkpoint: str | Path | None
    num_classes: int | None
    labels: str | Path | None
    notes: tuple[str, ...]

    def weights(self) -> Checkpoint:
        """Read the weights; see `load_weights` for what it raises."""
        from debiexport.loading import load_weights

        return load_weights(self.given, self.checkpoint, self.num_classes)


@dataclass(frozen=True)
class Loaded:
    """What has been read.

    Attributes:
        geometry: of the network, with the checkpoint's number of classes.
        description: of the weights, as "debi_tiny.pth" or "random, seed 0".
        sha256: of the checkpoint's file, None for random weights.
        labels: one per class, or None.
        checkpoint: the weights, None once they are in a network.
    """

    geometry: Geometry
    description: str
    sha256: str | None
    labels: tuple[str, ...] | None
    checkpoint: Checkpoint | None

    @property
    def card(self) -> Card:
        return self.geometry.card

    @property
    def weights(self) -> Checkpoint:
        assert self.checkpoint is not None
        return self.checkpoint

    def without_weights(self) -> Loaded:
        """The same with the weights' memory given back."""
        return replace(self, checkpoint=None)

    def properties(self, lowering: Lowering, input: str) -> dict[str, str]:
        """What a model file says of itself."""
        return {
            "card": json.dumps(self.card.to_dict(), sort_keys=True),
            "checkpoint": self.description,
            "checkpoint_sha256": self.sha256 or "",
            "image_size": "x".join(map(str, self.geometry.image_size)),
            "input": input,
            "lowering": json.dumps(lowering.to_dict(), sort_keys=True),
        }


def prepare(
    model: str | Path | Card,
    checkpoint: str | Path | None,
    *,
    image_size: int | tuple[int, int] | None,
    regions: int | None,
    top_k: Sequence[int] | None,
    bra_top_k: Sequence[int] | None,
    num_classes: int | None,
    labels: str | Path | None,
) -> Source:
    """Check what is asked for; see `export_onnx` for the arguments.

    Raises:
        UsageError, CardError: see `load_model`; also a file that does not exist.
    """
    from debiexport.checkpoint import check_file
    from debiexport.loading import as_image_size, resolve_card

    size = None if image_size is None else as_image_size(image_size)
    trained = resolve_card(model)
    card = resolve_card(model, regions=regions, top_k=top_k, bra_top_k=bra_top_k, num_classes=num_classes)
    size = size or check_image_size(card.default_image_size)
    if labels is not None and card.num_classes is None:
        raise UsageError(f"--labels was given, but {card.name} gives features and no classes: leave it out")
    if checkpoint is not None:
        check_file(checkpoint)
    if labels is not None:
        check_labels(labels)
    _check_shipped_classes(card, checkpoint, num_classes)
    costly = cost_note(Geometry.of(card, size), trained)
    notes = [costly] if costly is not None else []
    departure = departure_note(card, trained)
    if departure is not None:
        notes.append(departure)
    return Source(card, size, checkpoint, num_classes, labels, tuple(notes))


def load(source: Source, progress: Progress) -> Loaded:
    """Read the weights and say which they are.

    Raises:
        CheckpointError: they are broken or of another network.
        InputError: so are the labels.
    """
    for note in source.notes:
        progress(f"note: {note}")
    progress(f"reading the weights of {source.given.name}")
    weights = source.weights()
    if weights.sha256 is None:
        if source.checkpoint is None and _ships(source.given.name):
            progress(f"note: the weights that ship with {source.given.name} do not fit this card and are left out")
        progress(
            f"WARNING: no checkpoint was given: the weights are {weights.description} and the outputs mean nothing"
        )
    else:
        kind = "features" if weights.card.num_classes is None else f"{weights.card.num_classes} classes"
        progress(f"weights: {weights.description}, SHA-256 {weights.sha256[:12]}…, {kind}")
    labels = _labels(weights.card, source.labels, trained=weights.sha256 is not None)
    geometry = Geometry.of(weights.card, source.size)
    return Loaded(geometry, weights.description, weights.sha256, labels, weights)


def _check_shipped_classes(card: Card, checkpoint: str | Path | None, num_classes: int | None) -> None:
    """Weights that ship have their number of classes; others would silently be random."""
    if checkpoint is not None or num_classes is None or not _ships(card.name):
        return
    shipped = load_card(card.name)
    if shipped.num_classes != num_classes:
        raise UsageError(
            f"--num-classes is {num_classes}, but the weights that ship with {card.name} have {shipped.num_classes}:"
            " leave it out, or give --checkpoint"
        )


def _ships(name: str) -> bool:
    """Whether weights ship with a card of that name."""
    return name in card_names() and shipped_checkpoint(name) is not None


def _labels(card: Card, file: str | Path | None, *, trained: bool) -> tuple[str, ...] | None:
    """The labels of a file, or those that ship with a card's trained weights."""
    if card.num_classes is None:
        return None
    if file is not None:
        return read_labels(file, card.num_classes)
    return shipped_labels(card.name, card.num_classes) if trained else None
