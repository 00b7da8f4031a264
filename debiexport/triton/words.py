"""Numbers and lists in sentences."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """As "1 model" or "2 models"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(values: Iterable[object]) -> str:
    """As "1", "1 and 2" or "1, 2 and 3"."""
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last
