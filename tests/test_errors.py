"""The exception tree is the one that the module's docstring draws."""

from __future__ import annotations

import inspect
import re

import pytest

from debiexport import errors
from debiexport.errors import DebiexportError

CLASSES = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, BaseException) and cls.__module__ == errors.__name__
}


def documented() -> dict[str, tuple[int, str | None]]:
    """(exit code, parent) of every class in the drawing; a child stands to the right of its parent's name."""
    assert errors.__doc__ is not None
    found: dict[str, tuple[int, str | None]] = {}
    open_parents: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^[\s│├└─]*(?=[A-Z])(\w+)\s+(\d+)\b", line)
        if not match:
            continue
        column = match.start(1)
        open_parents = [(c, name) for c, name in open_parents if c < column]
        found[match[1]] = (int(match[2]), open_parents[-1][1] if open_parents else None)
        open_parents.append((column, match[1]))
    return found


def test_tree_is_the_documented_one() -> None:
    actual = {
        name: (cls.exit_code, None if cls is DebiexportError else cls.__bases__[0].__name__)
        for name, cls in CLASSES.items()
    }
    assert actual == documented()


@pytest.mark.parametrize(
    ("name", "code", "is_a"),
    [
        ("DebiexportError", 1, "DebiexportError"),
        ("UsageError", 2, "DebiexportError"),
        ("OutputError", 2, "UsageError"),
        ("ParityError", 3, "DebiexportError"),
        ("InputError", 4, "DebiexportError"),
        ("CardError", 4, "InputError"),
        ("CheckpointError", 4, "InputError"),
        ("BundleError", 4, "InputError"),
        ("ImageError", 4, "InputError"),
        ("MissingDependencyError", 5, "DebiexportError"),
        ("EngineError", 1, "DebiexportError"),
        ("Interrupted", 130, "DebiexportError"),
    ],
)
def test_exit_codes(name: str, code: int, is_a: str) -> None:
    assert CLASSES[name].exit_code == code
    assert issubclass(CLASSES[name], CLASSES[is_a])


def test_every_class_says_what_it_means() -> None:
    assert [name for name, cls in CLASSES.items() if not cls.__doc__] == []
    assert set(CLASSES) == set(documented())
