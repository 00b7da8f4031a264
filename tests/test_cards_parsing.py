"""Every refusal of a card of one's own, and what is accepted at the edge.

A refusal is a card with one thing changed; its message names the key, the value and what is allowed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from debiexport.cards import card_from_dict, load_card, parse_card
from debiexport.errors import CardError

OneLine = Callable[[BaseException], str]
Data = dict[str, Any]


class _Absent:
    """Stands for a key that is taken out. Its name is the same in every process, as a test's has to be."""

    def __repr__(self) -> str:
        return "absent"


REMOVED = _Absent()
DEBI = "debi_t"
BI = "biformer_t"
DENSE = "debi_t_seg"


def changed(model: str, *changes: tuple[str, Any]) -> Data:
    """A shipped card's dictionary with values set at paths such as `stages.0.C`."""
    data = copy.deepcopy(load_card(model).to_dict())
    for path, value in changes:
        *parents, key = path.split(".")
        table: Any = data
        for parent in parents:
            table = table[int(parent)] if parent.isdigit() else table[parent]
        if value is REMOVED:
            del table[key]
        elif isinstance(table, list):
            table[int(key)] = value
        else:
            table[key] = value
    return data


REFUSALS: list[tuple[str, tuple[tuple[str, Any], ...], tuple[str, ...]]] = [
    # unknown keys
    (DEBI, (("colour", "red"),), ("unknown key 'colour'", "'red'", "num_classes")),
    (DEBI, (("stages.1.H", 3),), ("stage 2", "unknown key 'H'", "3", "head_width")),
    (DEBI, (("stages.3.bra_top_k", 4),), ("stage 4", "unknown key 'bra_top_k'", "dbra_top_k")),
    (BI, (("stages.0.dbra_top_k", 4),), ("stage 1", "unknown key 'dbra_top_k'", "bra_top_k")),
    (BI, (("stages.3.bra_top_k", 4),), ("stage 4", "unknown key 'bra_top_k'")),
    (DEBI, (("preprocessing.size", 3),), ("preprocessing", "unknown key 'size'", "interpolation")),
    (DEBI, (("provenance.url", "x"),), ("provenance", "unknown key 'url'", "checkpoint")),
    (DEBI, (("paper.top5", 1.0),), ("paper", "unknown key 'top5'", "top1")),
    # missing keys
    *(
        (DEBI, ((key, REMOVED),), (f"'{key}' is missing", kind))
        for key, kind in [
            ("name", "a string"),
            ("family", "a string"),
            ("S", "an integer"),
            ("num_classes", "an integer"),
            ("stages", "a list"),
            ("preprocessing", "a table"),
            ("provenance", "a table"),
        ]
    ),
    *(
        (DEBI, ((f"stages.2.{key}", REMOVED),), ("stage 3", f"'{key}' is missing"))
        for key in [
            "blocks",
            "C",
            "head_width",
            "attention",
            "mlp_ratio",
            "bra_top_k",
            "dbra_top_k",
            "r",
            "G",
            "K",
            "q",
            "dbra_mlp_ratio",
        ]
    ),
    *(
        (DEBI, ((f"preprocessing.{key}", REMOVED),), ("preprocessing", f"'{key}' is missing"))
        for key in ("resize", "crop", "interpolation", "mean", "std")
    ),
    (DEBI, (("provenance.paper", REMOVED),), ("provenance", "'paper' is missing", "a string")),
    (DEBI, (("paper.top1", REMOVED),), ("paper", "'top1' is missing", "a number")),
    (DEBI, (("stages.2.dbra_mlp_ratio", REMOVED),), ("stage 3", "'dbra_mlp_ratio' is missing")),
    # wrong types; a bool is no integer, and neither is 7.0
    (DEBI, (("S", "7"),), ("S is '7'", "an integer")),
    (DEBI, (("S", 7.0),), ("S is 7.0", "an integer")),
    (DEBI, (("num_classes", True),), ("num_classes is True", "an integer")),
    (DEBI, (("stages.0.blocks", True),), ("stage 1", "blocks is True", "an integer")),
    (DEBI, (("stages.0.C", [64]),), ("C is [64]", "an integer")),
    (DEBI, (("stages.0.attention", "bra"),), ("attention is 'bra'", "a list")),
    (DEBI, (("stages.0", 3),), ("stage 1 is 3", "a table")),
    (DEBI, (("stages", {}),), ("stages is {}", "a list")),
    (DEBI, (("name", 3),), ("name is 3", "a string")),
    (DEBI, (("preprocessing", 3),), ("preprocessing is 3", "a table")),
    (DEBI, (("preprocessing.mean", 0.5),), ("mean is 0.5", "a list")),
    (DEBI, (("preprocessing.mean", [0.5, 0.5]),), ("mean is [0.5, 0.5]", "three numbers")),
    (DEBI, (("preprocessing.mean", [0.5, 0.5, True]),), ("mean is", "True", "three numbers")),
    (DEBI, (("preprocessing.std", ["a", 1, 1]),), ("std is", "'a'", "three numbers")),
    (DEBI, (("provenance.paper", 3),), ("paper is 3", "a string")),
    (DEBI, (("paper", "none"),), ("paper is 'none'", "a table")),
    (DEBI, (("paper.top1", "81"),), ("top1 is '81'", "a number")),
    (DEBI, (("paper.top1", True),), ("top1 is True", "a number")),
    # out of range
    (DEBI, (("S", 1),), ("S is 1", "2 to 64")),
    (DEBI, (("S", 65),), ("S is 65", "2 to 64")),
    (DEBI, (("num_classes", 0),), ("num_classes is 0", "1 to 1000000")),
    (DEBI, (("num_classes", 1_000_001),), ("num_classes is 1000001", "1 to 1000000")),
    (DEBI, (("stages.0.blocks", 0),), ("blocks is 0", "1 to 64")),
    (DEBI, (("stages.0.C", 1),), ("C is 1", "2 to 8192")),
    (DEBI, (("stages.0.C", 8193),), ("C is 8193", "2 to 8192")),
    (DEBI, (("stages.0.head_width", 0),), ("head_width is 0", "1 to 8192")),
    (DEBI, (("stages.0.mlp_ratio", 17),), ("mlp_ratio is 17", "1 to 16")),
    (DEBI, (("stages.0.dbra_mlp_ratio", 0),), ("dbra_mlp_ratio is 0", "1 to 16")),
    (DEBI, (("stages.0.bra_top_k", 0),), ("bra_top_k is 0", "1 to 49")),
    (DEBI, (("stages.0.dbra_top_k", 0),), ("dbra_top_k is 0", "1 to 49")),
    (DEBI, (("stages.0.r", 65),), ("r is 65", "1 to 64")),
    (DEBI, (("stages.0.G", 0),), ("G is 0", "1 to 64")),
    (DEBI, (("stages.0.K", -1),), ("K is -1", "1 to 63")),
    (DEBI, (("stages.0.q", 1),), ("q is 1", "2 to 1024")),
    (DEBI, (("preprocessing.resize", 4),), ("resize is 4", "8 to 8192")),
    (DEBI, (("preprocessing.crop", 9000),), ("crop is 9000", "8 to 8192")),
    (DEBI, (("preprocessing.std", [0.2, 0, 0.2]),), ("std is [0.2, 0.0, 0.2]", "above 0")),
    (DEBI, (("preprocessing.std", [0.2, -0.1, 0.2]),), ("std is", "-0.1", "above 0")),
    (DEBI, (("preprocessing.std", [0.2, float("inf"), 0.2]),), ("std has inf", "allowed are")),
    (DEBI, (("preprocessing.mean", [float("nan"), 0, 0]),), ("mean has nan", "allowed are")),
    (DEBI, (("preprocessing.mean", [10**400, 0, 0]),), ("mean has 1000", "allowed are")),
    (DEBI, (("paper.top1", float("nan")),), ("top1 has nan", "allowed are")),
    (DEBI, (("paper.top1", 10**400),), ("top1 has 1000", "allowed are")),
    # no such choice
    (DEBI, (("family", "swin"),), ("family is 'swin'", "debiformer, biformer, biformer_stl")),
    (DEBI, (("preprocessing.interpolation", "cubic"),), ("interpolation is 'cubic'", "bicubic")),
    (DEBI, (("name", "my net"),), ("name is 'my net'", "letters, digits and underscores")),
    (DEBI, (("name", "../x"),), ("name is '../x'", "letters, digits and underscores")),
    (DEBI, (("name", ""),), ("name is ''", "letters, digits and underscores")),
    (DEBI, (("name", "n" * 65),), ("name is 'nnn", "at most 64")),
    # outputs and sizes
    (DEBI, (("outputs", "masks"),), ("outputs is 'masks'", "logits, features")),
    (DEBI, (("outputs", 3),), ("outputs is 3", "a string")),
    (DEBI, (("outputs", "features"),), ("unknown key 'num_classes'", "1000")),
    (DENSE, (("num_classes", 150),), ("unknown key 'num_classes'", "150")),
    (DENSE, (("outputs", "logits"),), ("'num_classes' is missing",)),
    (DENSE, (("outputs", REMOVED),), ("'num_classes' is missing",)),
    (BI, (("outputs", "features"), ("num_classes", REMOVED)), ("outputs is 'features'", "biformer has logits")),
    (DENSE, (("image_size", 512),), ("image_size is 512", "a list")),
    (DENSE, (("image_size", [512]),), ("image_size is [512]", "[height, width]")),
    (DENSE, (("image_size", [512, 512, 3]),), ("image_size is [512, 512, 3]", "[height, width]")),
    (DENSE, (("image_size", [512, 31]),), ("image_size is [512, 31]", "32 to 4096")),
    (DENSE, (("image_size", [4097, 512]),), ("image_size is [4097, 512]", "32 to 4096")),
    (DENSE, (("image_size", [512.0, 512]),), ("image_size is [512.0, 512]", "pixels")),
    (DENSE, (("image_size", [True, 512]),), ("image_size is [True, 512]", "pixels")),
    # impossible combinations
    (DEBI, (("stages.0.head_width", 48),), ("stage 1", "head_width is 48", "divide C = 64")),
    (BI, (("stages.3.head_width", 100),), ("stage 4", "head_width is 100", "divide C = 512")),
    (DEBI, (("stages.2.G", 3),), ("stage 3", "G is 3", "divide the 8 heads")),
    (DEBI, (("stages.2.G", 16),), ("stage 3", "G is 16", "divide the 8 heads")),
    (DEBI, (("stages.0.K", 8),), ("stage 1", "K is 8", "odd")),
    (DEBI, (("stages.0.bra_top_k", 50),), ("bra_top_k is 50", "1 to 49")),
    (DEBI, (("stages.3.dbra_top_k", 50),), ("stage 4", "dbra_top_k is 50", "1 to 49")),
    (DEBI, (("S", 4),), ("stage 4", "dbra_top_k is 49", "1 to 16")),
    (DEBI, (("stages.3.attention", ["full", "dbra"]),), ("stage 4", "'full'", "debiformer has bra and dbra")),
    (DEBI, (("stages.3.attention", ["dbra"]),), ("stage 4", "['dbra']", "has 2")),
    (DEBI, (("stages.3.attention", []),), ("stage 4", "attention is []", "has 2")),
    (DEBI, (("stages.3.attention", ["dbra", "DBRA"]),), ("'DBRA'", "bra, dbra, full")),
    (DEBI, (("stages.3.attention", ["dbra", 3]),), ("3]", "bra, dbra, full")),
    (DEBI, (("stages.3.attention", ["dbra", []]),), ("[]]", "bra, dbra, full")),
    (BI, (("stages.0.attention", ["dbra"]),), ("stage 1", "'dbra'", "biformer has bra and full")),
    (BI, (("stages.0.attention", ["bra", "full"]),), ("stage 1", "biformer has 1")),
    ("biformer_stl", (("stages.0.attention", ["dbra"]),), ("'dbra'", "biformer_stl has bra and full")),
    (DEBI, (("preprocessing.crop", 257),), ("crop is 257", "at most resize = 256")),
    (DEBI, (("stages", []),), ("0 stages", "four")),
    (DEBI, (("stages", [{}] * 3),), ("3 stages", "four")),
    (DEBI, (("stages", [{}] * 5),), ("5 stages", "four")),
]


@pytest.mark.parametrize(
    ("model", "changes", "says"), REFUSALS, ids=[f"{i}-{r[1][0][0]}" for i, r in enumerate(REFUSALS)]
)
def test_refuses(model: str, changes: tuple[tuple[str, Any], ...], says: tuple[str, ...], one_line: OneLine) -> None:
    with pytest.raises(CardError) as caught:
        card_from_dict(changed(model, *changes), "my.toml")
    text = one_line(caught.value)
    assert [part for part in ("my.toml", *says) if part not in text] == [], text
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "changes",
    [
        (("paper", REMOVED),),
        (("image_size", [32, 4096]),),
        (("outputs", "logits"),),
        (("outputs", "features"), ("num_classes", REMOVED)),
        (("paper.top1", 82),),
        (("preprocessing.std", [1, 1, 1]),),
        (("preprocessing.crop", 256),),
        (("S", 64),),
        (("stages.0.G", 2),),
        (("stages.3.attention", ["bra", "dbra"]), ("stages.3.bra_top_k", 49)),
        (("stages.0.attention", ["dbra", "bra"]),),
        (("stages.0.C", 2), ("stages.0.head_width", 1), ("stages.0.G", 2)),
    ],
    ids=str,
)
def test_accepts(changes: tuple[tuple[str, Any], ...]) -> None:
    """Cards at the edge of what is allowed, which round-trip like the rest."""
    card = card_from_dict(changed(DEBI, *changes), "my.toml")
    assert card_from_dict(card.to_dict(), "again") == card


@pytest.mark.parametrize("data", [[], 3, "card", None])
def test_refuses_what_is_no_table(data: Any, one_line: OneLine) -> None:
    with pytest.raises(CardError, match="must be a table") as caught:
        card_from_dict(data, "my.toml")
    one_line(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"not toml",
        b"a = ",
        b"a = 1\na = 2\n",
        b"\xff\xfe",
        "name = 'x'".encode("utf-16"),
        b"\x00",
        b"\x89PNG\r\n\x1a\n",
        b"S = " + b"9" * 5000,
        b"a = " + b"[" * 5000,
    ],
    ids=["words", "no value", "twice", "bytes", "utf-16", "nul", "png", "endless integer", "endless nesting"],
)
def test_refuses_what_is_no_toml(content: bytes, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(CardError) as caught:
        load_card(path)
    text = one_line(caught.value)
    assert f"{path} is not a TOML file" in text and "shipped card" in text
    assert caught.value.exit_code == 4


def test_refuses_a_toml_file_that_is_no_card(one_line: OneLine) -> None:
    with pytest.raises(CardError, match="'name' is missing") as caught:
        parse_card(b"", "empty.toml")
    one_line(caught.value)
    with pytest.raises(CardError, match="'name' is missing"):
        parse_card(b"[tool.ruff]\nline-length = 120\n", "pyproject.toml")
