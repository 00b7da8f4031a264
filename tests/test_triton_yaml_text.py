"""YAML as it is written here, read by a YAML package."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from debiexport.triton.yaml_text import to_yaml

TEXTS = ["a", "true", "No", "null", "~", "", " ", "1", "1.5", "0x10", "1:30", "2024-01-01", "a: b", "a #b", "- a", "ü"]
TEXTS += [
    "line\nline",
    '"quoted"',
    "it's",
    "{x}",
    "[x]",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "a/b-c_d.e",
    "--a=b",
    "\t",
    "\\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_stay_texts(text: str) -> None:
    for data in (text, [text], {"key": text}, {text: "value"}, [[text], {"a": [text]}]):
        assert yaml.safe_load(to_yaml(data)) == data  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [0, -3, 10**12, True, False, {}, [], {"a": {}, "b": []}, [[], {}, [[]]], [{"a": 1}]])
def test_other_data_stays_what_it_is(data: Any) -> None:
    read = yaml.safe_load(to_yaml(data))
    assert read == data
    assert type(read) is type(data)


def test_any_nesting_is_read_back() -> None:
    source = random.Random(0)

    def some(depth: int) -> Any:
        kind = source.randrange(5 if depth else 3)
        if kind == 3:
            return [some(depth - 1) for _ in range(source.randrange(4))]
        if kind == 4:
            return {source.choice(TEXTS): some(depth - 1) for _ in range(source.randrange(4))}
        return (source.choice(TEXTS), source.randrange(-9, 9), source.random() < 0.5)[kind]

    for _ in range(300):
        data = some(4)
        assert yaml.safe_load(to_yaml(data)) == data


def test_it_is_written_as_people_write_it() -> None:
    assert to_yaml({"a": {"b": ["c", {"d": 1, "e": True}]}, "f": "1"}) == (
        'a:\n  b:\n    - c\n    - d: 1\n      e: true\nf: "1"\n'
    )
