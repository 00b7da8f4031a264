"""Class labels: one a line, in the order of the classes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from debiexport.cards import card_names
from debiexport.errors import InputError, UsageError

MAX_LABELS_BYTES = 16 * 2**20


def check_file(path: str | Path) -> Path:
    """The path of a file.

    Raises:
        UsageError: no such file.
    """
    if not Path(path).is_file():
        raise UsageError(f"--labels {path} is not a file: give a text file with one label a line")
    return Path(path)


def read_labels(path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Labels of a text file (UTF-8), one a line.

    Raises:
        UsageError: no such file.
        InputError: no text, an empty line, or another number of lines than classes.
    """
    file = check_file(path)
    if file.stat().st_size > MAX_LABELS_BYTES:
        raise InputError(f"{path} has {file.stat().st_size} bytes: labels have at most {MAX_LABELS_BYTES}")
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin a text with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({error}): give one label a line") from error
    return _parse(text, str(path), num_classes)


def shipped_labels(card_name: str, num_classes: int) -> tuple[str, ...] | None:
    """The labels that ship with a card, or None if none do or the classes are others."""
    if card_name not in card_names():
        return None
    file = resources.files("debiexport.models").joinpath(f"{card_name}.labels.txt")
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    return _parse(text, file.name, num_classes) if len(text.split("\n")) - 1 == num_classes else None


def _parse(text: str, where: str, num_classes: int) -> tuple[str, ...]:
    labels = tuple(line.strip() for line in text.splitlines())
    if len(labels) != num_classes:
        raise InputError(f"{where} has {len(labels)} lines, the network {num_classes} classes: give one label a line")
    for number, label in enumerate(labels, 1):
        if not label:
            raise InputError(f"{where} line {number} is empty: give every class a label")
    return labels
