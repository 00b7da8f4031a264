"""Cards: the shipped ones, every refusal of one's own, and options.

A refusal is a card with one thing changed; its message names the key, the value and what is allowed.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from debiexport.cards import (
    MAX_CARD_BYTES,
    Card,
    card_from_dict,
    card_names,
    iter_cards,
    load_card,
    parse_card,
    shipped_checkpoint,
)
from debiexport.errors import CardError, UsageError

OneLine = Callable[[BaseException], str]
Data = dict[str, Any]

REMOVED = object()
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


# -------------------------------------------------------------------------------- shipped cards


def test_names_are_sorted_and_what_iter_gives() -> None:
    assert card_names() == tuple(sorted(card_names()))
    assert [card.name for card in iter_cards()] == list(card_names())
    assert {"debi_t", "debi_s", "debi_b", "debi_nano"} < set(card_names())
    assert {"biformer_t", "biformer_s", "biformer_b", "biformer_stl"} < set(card_names())
    assert {f"debi_{size}_{use}" for size in "tsb" for use in ("seg", "det")} < set(card_names())


@pytest.mark.parametrize(
    ("name", "regions", "image_size"),
    [
        *((f"debi_{size}_seg", 8, (512, 512)) for size in "tsb"),
        ("debi_t_det", 8, (800, 1344)),
        ("debi_s_det", 16, (800, 1344)),
        ("debi_b_det", 32, (800, 1344)),
    ],
)
def test_dense_backbones(name: str, regions: int, image_size: tuple[int, int]) -> None:
    """Their stages are the classifier's, top-k included."""
    card, classifier = load_card(name), load_card(name.rpartition("_")[0])
    assert (card.outputs, card.num_classes, card.regions) == ("features", None, regions)
    assert card.image_size == card.default_image_size == image_size
    assert card.stages == classifier.stages
    assert (classifier.outputs, classifier.num_classes, classifier.image_size) == ("logits", 1000, None)
    assert classifier.default_image_size == (224, 224)


@pytest.mark.parametrize("name", card_names())
def test_shipped_card_round_trips(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card_from_dict(card.to_dict(), "again") == card
    assert card_from_dict(json.loads(json.dumps(card.to_dict())), "through JSON") == card


@pytest.mark.parametrize("name", card_names())
def test_to_dict_is_the_file(name: str) -> None:
    path = Path(__file__).parent.parent / "models" / f"{name}.toml"
    assert load_card(name).to_dict() == tomllib.loads(path.read_text(encoding="utf-8"))
    assert load_card(path) == load_card(str(path)) == load_card(name)


def test_tiny_cards_round_trip(
    tiny_card: Card, tiny_bi_card: Card, tiny_stl_card: Card, tiny_seg_card: Card, tiny_card_file: Path
) -> None:
    for card in (tiny_card, tiny_bi_card, tiny_stl_card, tiny_seg_card):
        assert card_from_dict(card.to_dict(), "again") == card
    assert load_card(tiny_card_file) == tiny_card


@pytest.mark.parametrize(
    ("name", "top_k", "bra_top_k", "heads"),
    [
        ("debi_t", (4, 8, 16, 49), (1, 4, 16), (2, 4, 8, 16)),
        ("debi_b", (4, 8, 16, 49), (1, 4, 16), (3, 6, 12, 24)),
        ("biformer_t", (), (1, 4, 16), (2, 4, 8, 8)),
        ("biformer_b", (), (1, 4, 16), (3, 6, 12, 8)),
        ("biformer_stl", (), (1, 4, 16), (3, 6, 12, 8)),
    ],
)
def test_top_k_and_heads(name: str, top_k: tuple[int, ...], bra_top_k: tuple[int, ...], heads: tuple[int, ...]) -> None:
    card = load_card(name)
    assert (card.top_k, card.bra_top_k) == (top_k, bra_top_k)
    assert tuple(stage.heads for stage in card.stages) == heads


def test_cards_are_frozen() -> None:
    card = load_card(DEBI)
    with pytest.raises(FrozenInstanceError):
        card.regions = 8  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        card.stages[0].channels = 8  # type: ignore[misc]


def test_only_the_sample_has_weights() -> None:
    assert [name for name in card_names() if shipped_checkpoint(name)] == ["debi_nano"]
    assert shipped_checkpoint("unknown") is None


def test_architecture_digest_is_of_the_architecture() -> None:
    """What is computed counts; where it comes from, how it is called and its preprocessing do not."""
    card = load_card(DEBI)
    digest = card.architecture_sha256
    same = (replace(card, name="other"), replace(card, paper=None), card_from_dict(card.to_dict(), "again"))
    assert {c.architecture_sha256 for c in same} == {digest}
    others = (
        card.with_options(regions=8),
        card.with_options(top_k=(4, 8, 16, 48)),
        card.with_options(bra_top_k=(1, 4, 15)),
        card.with_options(num_classes=10),
        replace(load_card("debi_t_seg"), regions=7),
    )
    assert len({digest, *(c.architecture_sha256 for c in others)}) == 6
    assert replace(card, image_size=(64, 64)).architecture_sha256 == digest


# ----------------------------------------------------------------------------------- refusals

STAGE_KEYS = ("blocks", "C", "head_width", "attention", "mlp_ratio", "bra_top_k", "dbra_top_k", "r", "G", "K", "q")
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


# -------------------------------------------------------------------------------------- files


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


def test_refuses_a_large_file(tmp_path: Path, tiny_card_file: Path, tiny_card: Card, one_line: OneLine) -> None:
    path = tmp_path / "my.toml"
    content = tiny_card_file.read_bytes() + b"\n#"
    path.write_bytes(content.ljust(MAX_CARD_BYTES, b"-"))
    assert load_card(path) == tiny_card
    path.write_bytes(content.ljust(MAX_CARD_BYTES + 1, b"-"))
    with pytest.raises(CardError) as caught:
        load_card(path)
    text = one_line(caught.value)
    assert str(path) in text and f"{MAX_CARD_BYTES + 1} bytes" in text and f"at most {MAX_CARD_BYTES}" in text


@pytest.mark.parametrize("name", ["debi_x", "DEBI_T", "", ".", "missing/card.toml", "debi_t.toml", "a\0b", "a\nb"])
def test_refuses_what_is_neither_card_nor_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    """A folder is no card either; the message lists the shipped ones."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_card(name)
    text = one_line(caught.value)
    assert f"no model card {name!r}" in text
    assert all(known in text for known in (".toml", *card_names()))
    assert caught.value.exit_code == 2


def test_shipped_name_wins_over_a_file(
    tmp_path: Path, tiny_card_file: Path, tiny_card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("debi_t").write_bytes(tiny_card_file.read_bytes())
    assert load_card("debi_t").name == "debi_t"
    assert load_card("./debi_t") == tiny_card


def test_refuses_a_file_that_cannot_be_read(
    tiny_card_file: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(CardError, match="Permission denied") as caught:
        load_card(tiny_card_file)
    assert str(tiny_card_file) in one_line(caught.value)


# ------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (DEBI, {}, {}),
        (DEBI, {"regions": 8}, {"S": 8}),
        (DENSE, {"regions": 7, "top_k": (1, 2, 3, 4)}, {"S": 7, "dbra_top_k": [1, 2, 3, 4]}),
        (DEBI, {"regions": 64}, {"S": 64}),
        (DEBI, {"num_classes": 1}, {"num_classes": 1}),
        (DEBI, {"num_classes": 1_000_000}, {"num_classes": 1_000_000}),
        (DEBI, {"top_k": (1, 2, 3, 4)}, {"dbra_top_k": [1, 2, 3, 4]}),
        (DEBI, {"top_k": [49, 49, 49, 49]}, {"dbra_top_k": [49] * 4}),
        (DEBI, {"bra_top_k": (5, 6, 7)}, {"bra_top_k": [5, 6, 7, None]}),
        (BI, {"bra_top_k": (5, 6, 7)}, {"bra_top_k": [5, 6, 7, None]}),
        (DEBI, {"regions": 4, "top_k": (16, 1, 1, 16)}, {"S": 4, "dbra_top_k": [16, 1, 1, 16]}),
        (DEBI, {"regions": 8, "top_k": (64, 1, 1, 1)}, {"S": 8, "dbra_top_k": [64, 1, 1, 1]}),
        (
            DEBI,
            {"regions": 2, "top_k": (1, 2, 3, 4), "bra_top_k": (4, 3, 2), "num_classes": 7},
            {"S": 2, "num_classes": 7, "dbra_top_k": [1, 2, 3, 4], "bra_top_k": [4, 3, 2, None]},
        ),
    ],
)
def test_options_replace_nothing_else(model: str, options: Data, expected: Data) -> None:
    card = load_card(model)
    wanted = card.to_dict()
    for key, value in expected.items():
        if isinstance(value, list):
            for stage, k in zip(wanted["stages"], value, strict=True):
                stage |= {} if k is None else {key: k}
        else:
            wanted[key] = value
    changed_card = card.with_options(**options)
    assert changed_card.to_dict() == wanted
    assert card == load_card(model)
    assert card_from_dict(changed_card.to_dict(), "again") == changed_card


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (DEBI, {"regions": 1}, ("--regions is 1", "2 to 64")),
        (DEBI, {"regions": 65}, ("--regions is 65", "2 to 64")),
        (DEBI, {"regions": -7}, ("--regions is -7", "2 to 64")),
        (DEBI, {"num_classes": 0}, ("--num-classes is 0", "1 to 1000000")),
        (DEBI, {"num_classes": 1_000_001}, ("--num-classes is 1000001", "1 to 1000000")),
        (DEBI, {"top_k": (4, 8, 16)}, ("--top-k has 3 values", "4 stages", "give 4")),
        (DEBI, {"top_k": (4, 8, 16, 49, 49)}, ("--top-k has 5 values", "give 4")),
        (DEBI, {"top_k": ()}, ("--top-k has 0 values", "give 4")),
        (DEBI, {"bra_top_k": (1, 4, 16, 49)}, ("--bra-top-k has 4 values", "BRA in 3 stages", "give 3")),
        (DEBI, {"top_k": (4, 8, 16, 0)}, ("--top-k is 4,8,16,0", "at least 1")),
        (DEBI, {"bra_top_k": (-1, 8, 16)}, ("--bra-top-k is -1,8,16", "at least 1")),
        (DEBI, {"top_k": (4, 8, 50, 49)}, ("--top-k is 50 in stage 3", "S = 7", "49 regions", "at most 49")),
        (DEBI, {"bra_top_k": (50, 1, 1)}, ("--bra-top-k is 50 in stage 1", "at most 49")),
        (DEBI, {"regions": 6}, ("--top-k is 49 in stage 4", "S = 6", "36 regions", "at most 36")),
        (BI, {"regions": 3}, ("--bra-top-k is 16 in stage 3", "S = 3", "9 regions", "at most 9")),
        (DEBI, {"regions": 6, "top_k": (1, 1, 1, 37)}, ("--top-k is 37 in stage 4", "at most 36")),
        (BI, {"top_k": (1, 1, 1, 1)}, ("--top-k was given", "biformer_t has no DBRA")),
        (DENSE, {"num_classes": 150}, ("--num-classes was given", "debi_t_seg gives features", "leave it out")),
        (DENSE, {"regions": 6}, ("--top-k is 49 in stage 4", "at most 36")),
    ],
)
def test_refused_options(model: str, options: Data, says: tuple[str, ...], one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        load_card(model).with_options(**options)
    text = one_line(caught.value)
    assert [part for part in says if part not in text] == [], text
    assert caught.value.exit_code == 2


def test_bra_top_k_of_a_card_without_bra(tiny_card: Card) -> None:
    data = tiny_card.to_dict()
    for stage in data["stages"]:
        stage["attention"] = ["dbra", "dbra"]
        stage.pop("bra_top_k", None)
    with pytest.raises(UsageError, match=r"--bra-top-k was given, but tiny_debi has no BRA"):
        card_from_dict(data, "my.toml").with_options(bra_top_k=(1,))
