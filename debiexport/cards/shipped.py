"""Cards by name: those that ship with debiexport, and a file of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from debiexport.cards.card import Card
from debiexport.cards.limits import MAX_CARD_BYTES
from debiexport.cards.parsing import parse_card
from debiexport.errors import CardError, UsageError


def _models_folder() -> Traversable:
    return resources.files("debiexport.models")


def card_names() -> tuple[str, ...]:
    """Names of the cards that ship with debiexport, sorted."""
    return tuple(sorted(f.name.removesuffix(".toml") for f in _models_folder().iterdir() if f.name.endswith(".toml")))


def iter_cards() -> Iterator[Card]:
    """Every card that ships with debiexport, in the order of `card_names`."""
    return (load_card(name) for name in card_names())


def shipped_checkpoint(name: str) -> Path | None:
    """Path of the trained sample that ships with the card `name`, or None if none ships."""
    path = Path(str(_models_folder().joinpath(f"{name}.safetensors")))
    return path if path.is_file() else None


def load_card(name_or_path: str | Path) -> Card:
    """Read a card by its name or from a TOML file of one's own.

    Raises:
        UsageError: neither a shipped card nor a file has this name.
        CardError: the file is not a valid card; the message names the key, the value and what is allowed.
    """
    text = str(name_or_path)
    names = card_names()
    if text in names:
        source = _models_folder().joinpath(f"{text}.toml")
        return parse_card(source.read_bytes(), f"{text}.toml")
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"no model card {text!r}: give a path to a .toml card or one of {', '.join(names)}")
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise CardError(f"{text} is {path.stat().st_size} bytes: a card has at most {MAX_CARD_BYTES}")
        return parse_card(path.read_bytes(), text)
    except OSError as error:
        raise CardError(f"{text} cannot be read ({error.strerror}): check its permissions") from error
