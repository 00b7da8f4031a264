"""Plain data as YAML: tables, lists, texts, whole numbers and switches, in block style.

Manifests need nothing else, and a YAML package would be one more dependency of everybody who serves. Every text that is
not plainly a word is quoted as JSON quotes it, which YAML reads the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Data: TypeAlias = "Mapping[str, Data] | Sequence[Data] | str | int | bool"

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
# Words that some reader of YAML takes for a switch or nothing.
_TAKEN = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}


def to_yaml(data: Data) -> str:
    """The data as a document."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: Data) -> Iterator[str]:
    if not isinstance(data, str | int) and not data:
        yield _empty(data)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _entry(f"{_scalar(key)}:", value)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        for value in data:
            if isinstance(value, Mapping) and value:  # its first key stands beside the dash
                first, *others = _lines(value)
                yield f"- {first}"
                yield from (f"  {line}" for line in others)
            else:
                yield from _entry("-", value)
    else:
        yield _scalar(data)


def _entry(head: str, value: Data) -> Iterator[str]:
    if isinstance(value, str | int):
        yield f"{head} {_scalar(value)}"
    elif not value:
        yield f"{head} {_empty(value)}"
    else:
        yield head
        yield from (f"  {line}" for line in _lines(value))


def _empty(value: Data) -> str:
    return "{}" if isinstance(value, Mapping) else "[]"


def _scalar(value: str | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return value if _WORD.fullmatch(value) and value.lower() not in _TAKEN else json.dumps(value, ensure_ascii=False)
