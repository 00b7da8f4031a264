"""Options replace what they name and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from debiexport.cards import Card, card_from_dict, load_card
from debiexport.errors import UsageError

OneLine = Callable[[BaseException], str]
Data = dict[str, Any]

DEBI = "debi_t"
BI = "biformer_t"
DENSE = "debi_t_seg"


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
