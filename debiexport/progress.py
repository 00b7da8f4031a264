"""Telling a waiting user what is being done; the Python API is silent unless given a function."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with one line, in the present tense, when a step begins or something worth saying is known."""


def silent(line: str) -> None:
    """Say nothing."""
