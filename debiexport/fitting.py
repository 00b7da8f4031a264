"""Whether the keys and shapes of a checkpoint are those of a card, and what is said if they are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from debiexport.cards import Card, card_names, iter_cards, load_card
from debiexport.errors import CheckpointError
from debiexport.spec import Shape, Spec, is_counter, state_dict_spec
from debiexport.unpickle import one_line

SHOWN_KEYS = 5


def check_fit(
    shapes: Mapping[str, Shape],
    card: Card,
    where: str,
    *,
    left_out: Sequence[str] = (),
    exported_from: str | None = None,
) -> None:
    """Refuse shapes that are not exactly those of the card's state dict; counters may be missing.

    Args:
        shapes: of the tensors of a file, by key.
        card: with the file's number of classes.
        where: the file, in messages.
        left_out: keys that were found beside a backbone.
        exported_from: see `read_checkpoint`.

    Raises:
        CheckpointError: keys are missing, unexpected, or of another shape.
    """
    spec = state_dict_spec(card)
    missing = [key for key in spec if key not in shapes and not is_counter(key)]
    unexpected = [key for key in shapes if key not in spec]
    misshapen = [key for key, shape in spec.items() if shapes.get(key, shape) != shape]
    parts = [*_told(missing, "missing"), *_told(unexpected, "unexpected")]
    if len(misshapen) == 1:
        parts.append(f"key {misshapen[0]} is {shapes[misshapen[0]]} instead of {spec[misshapen[0]]}")
    elif misshapen:
        differences = listed(f"{key} {shapes[key]} instead of {spec[key]}" for key in misshapen)
        parts.append(f"{len(misshapen)} keys of another shape ({differences})")
    if not parts:
        return
    if left_out:
        parts.append(f"{len(left_out)} left out beside the backbone ({listed(left_out)})")
    raise CheckpointError(
        f"{where} does not fit {_described(card)}: {', '.join(parts)}; {_advice(shapes, card, exported_from)}"
    )


def _told(keys: Sequence[str], what: str) -> list[str]:
    if len(keys) == 1:
        return [f"key {one_line(keys[0], 120)} is {what}"]
    return [f"{len(keys)} keys {what} ({listed(keys)})"] if keys else []


def _described(card: Card) -> str:
    """The card's name, and that it is not the shipped card of that name."""
    return f"your own card {card.name}, which is not the shipped one" if _is_another(card) else card.name


def _is_another(card: Card) -> bool:
    """Whether a shipped card has this name and other weights."""
    if card.name not in card_names():
        return False
    shipped = load_card(card.name)
    if shipped.num_classes is not None and card.num_classes is not None:
        shipped = replace(shipped, num_classes=card.num_classes)
    return state_dict_spec(shipped) != state_dict_spec(card)


def _advice(shapes: Mapping[str, Shape], card: Card, exported_from: str | None) -> str:
    fitting = fitting_cards(shapes)
    looks = " or ".join(fitting)  # those of one backbone differ in S alone
    if exported_from is not None:
        give = f"give the checkpoint that the bundle was exported from, {exported_from}"
        if exported_from.startswith("random, "):  # see `random_checkpoint`
            give = f"the bundle's weights are {exported_from}: leave the checkpoint out"
        return f"this looks like {looks}: {give}" if fitting else give
    if card.name in fitting:
        return f"it fits the shipped card {card.name}: use --model {card.name}, or compare your card with it"
    if fitting:
        return f"this looks like {looks}: use --model {' or --model '.join(fitting)}"
    return "give the model that it is of"


def fitting_cards(shapes: Mapping[str, Shape]) -> list[str]:
    """Names of the shipped cards that a file with these shapes fits exactly, whatever its number of classes."""
    classes = next(iter(shapes.get("head.weight", ())), 1)

    def weights(spec: Mapping[str, Shape]) -> Spec:
        return {key: shape for key, shape in spec.items() if not is_counter(key)}

    def spec_of(card: Card) -> Spec:
        return state_dict_spec(card if card.num_classes is None else replace(card, num_classes=classes))

    wanted = weights(shapes)
    return [card.name for card in iter_cards() if weights(spec_of(card)) == wanted]


def listed(names: Iterable[str]) -> str:
    """The first few of the names of a file, fit for a message."""
    shown = [one_line(name, 120) for name in names]
    return ", ".join(shown[:SHOWN_KEYS]) + (", …" if len(shown) > SHOWN_KEYS else "")
