"""Cards and checkpoints become reference networks."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from pathlib import Path

from debiexport.cards import Card, card_names, load_card, shipped_checkpoint
from debiexport.checkpoint import Checkpoint, random_checkpoint, read_checkpoint
from debiexport.errors import UsageError
from debiexport.geometry import Geometry, check_image_size
from debiexport.reference.network import ReferenceNetwork
from debiexport.spec import state_dict_spec


class RandomWeightsWarning(UserWarning):
    """A network was built without a checkpoint: its outputs mean nothing."""


def as_image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """An image size in pixels, one side or (height, width), as a pair.

    Raises:
        UsageError: a side is out of range.
    """
    try:
        sides = [operator.index(side) for side in ((size, size) if isinstance(size, int) else size)]
    except TypeError as error:
        raise UsageError(f"the image size is {size!r}: give one whole number, or (height, width)") from error
    if len(sides) != 2:
        raise UsageError(f"the image size is {size!r}: give one whole number, or (height, width)")
    return check_image_size((sides[0], sides[1]))


def load_weights(card: Card, checkpoint: str | Path | None, num_classes: int | None = None) -> Checkpoint:
    """The weights of a checkpoint; without one those that ship with the card, or else random ones.

    Args:
        card: with any options applied.
        checkpoint: a file, or None.
        num_classes: refuse a checkpoint that has another number.

    Raises:
        UsageError, CheckpointError: see `read_checkpoint`.
    """
    if checkpoint is None and card.name in card_names():
        shipped = shipped_checkpoint(card.name)
        # Another number of classes, or a card of one's own under the name, is another network.
        if shipped is not None and state_dict_spec(card) == state_dict_spec(load_card(card.name)):
            checkpoint = shipped
    if checkpoint is None:
        return random_checkpoint(card)
    return read_checkpoint(checkpoint, card, num_classes=num_classes)


def build_reference(checkpoint: Checkpoint, image_size: tuple[int, int]) -> ReferenceNetwork:
    """The reference network with a checkpoint's weights."""
    network = ReferenceNetwork(checkpoint.card, image_size)
    network.load_state_dict(checkpoint.state, strict=True)
    return network


def resolve_card(
    name_or_card: str | Path | Card,
    *,
    regions: int | None = None,
    top_k: Sequence[int] | None = None,
    bra_top_k: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> Card:
    """A card by name, path or itself, with options applied; see `Card.with_options` and `load_card`."""
    card = name_or_card if isinstance(name_or_card, Card) else load_card(name_or_card)
    return card.with_options(regions=regions, top_k=top_k, bra_top_k=bra_top_k, num_classes=num_classes)


def load_model(
    name_or_card: str | Path | Card,
    checkpoint: str | Path | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    regions: int | None = None,
    top_k: Sequence[int] | None = None,
    bra_top_k: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> ReferenceNetwork:
    """The reference network of a card, in evaluation mode.

    Args:
        name_or_card: a shipped card's name, the path of a card, or a card.
        checkpoint: a released or fine-tuned file. Without one the weights that ship with the card
            are taken, and if none do, seeded random ones, with a `RandomWeightsWarning`.
        image_size: pixels, one side or (height, width), instead of the card's default.
        regions: S, instead of the card's.
        top_k: top-k of DBRA for each stage that has it, instead of the card's.
        bra_top_k: top-k of BRA for each stage that has it, instead of the card's.
        num_classes: number of classes; with a checkpoint it is the checkpoint's, and another is refused, as is any
            of a dense backbone.

    Raises:
        UsageError: an option's value is impossible, or a file does not exist.
        CardError: the card is broken.
        CheckpointError: the checkpoint is broken, unsafe, or of another network.
    """
    card = resolve_card(name_or_card, regions=regions, top_k=top_k, bra_top_k=bra_top_k, num_classes=num_classes)
    size = card.default_image_size if image_size is None else as_image_size(image_size)
    Geometry.of(card, size)
    weights = load_weights(card, checkpoint, num_classes)
    if weights.sha256 is None:
        warnings.warn(f"{card.name} has no checkpoint: its weights are {weights.description}", RandomWeightsWarning, 2)
    return build_reference(weights, size)
