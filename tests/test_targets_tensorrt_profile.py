"""The batches of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from debiexport.errors import BundleError, UsageError
from debiexport.targets.tensorrt.profile import MAX_BATCH, Profile

OneLine = Callable[[BaseException], str]


@pytest.mark.parametrize(
    ("text", "profile", "shown"),
    [
        ("1", Profile(1, 1, 1), "1"),
        (" 8 ", Profile(8, 8, 8), "8"),
        ("1:8:32", Profile(1, 8, 32), "1:8:32"),
        ("2 : 2 : 2", Profile(2, 2, 2), "2"),
        ("1:1024:1024", Profile(1, 1024, 1024), "1:1024:1024"),
        ("001", Profile(1, 1, 1), "1"),
    ],
)
def test_parse(text: str, profile: Profile, shown: str) -> None:
    assert Profile.parse(text) == profile
    assert str(profile) == shown
    assert profile.is_range == (":" in shown)
    assert profile.batch == (None if ":" in shown else profile.max)
    assert Profile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "give a number such as 8, MIN:OPT:MAX such as 1:8:32, or several"),
        ("dynamic", "give a number such as 8"),
        ("1:2", "give a number such as 8"),
        ("1:2:3:4", "give a number such as 8"),
        ("-1", "give a number such as 8"),
        ("1.5", "give a number such as 8"),
        ("٣", "give a number such as 8"),
        ("9999999999999", "give a number such as 8"),
        ("0", "give batches from 1 to 1024"),
        ("0:1:2", "give batches from 1 to 1024"),
        ("1025", "give batches from 1 to 1024"),
        ("1:8:1025", "give batches from 1 to 1024"),
        ("8:4:1", "the smallest first"),
        ("2:1:8", "give the smallest first and the largest last"),
        ("1:9:8", "give the smallest first and the largest last"),
    ],
)
def test_refused(text: str, words: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        Profile.parse(text)
    assert words in one_line(caught.value) and "--batch is" in str(caught.value)
    assert caught.value.exit_code == 2


def test_shapes_and_what_is_inside() -> None:
    profile = Profile(2, 4, MAX_BATCH)
    assert profile.shapes((-1, 3, 8, 8)) == ((2, 3, 8, 8), (4, 3, 8, 8), (1024, 3, 8, 8))
    assert [profile.admits(n) for n in (1, 2, 4, 1024, 1025)] == [False, True, True, True, False]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [1, 2, 3],
        {"min": 1, "opt": 2},
        {"min": 1, "opt": 2, "max": 3, "more": 4},
        {"min": 1, "opt": 2, "max": "3"},
        {"min": True, "opt": True, "max": True},
        {"min": 3, "opt": 2, "max": 1},
    ],
)
def test_what_a_file_may_hold_instead(data: Any, one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        Profile.from_dict(data)
    assert "the batches of an engine are" in one_line(caught.value) and "export again" in str(caught.value)
