"""Numbers and lists in sentences."""

from __future__ import annotations

from debiexport.triton.words import counted, listed


def test_one_is_singular() -> None:
    assert [counted(number, "error") for number in (0, 1, 2)] == ["0 errors", "1 error", "2 errors"]


def test_the_last_of_a_list_follows_and() -> None:
    assert [listed(values) for values in ([1], [1, 2], ["a", "b", "c"])] == ["1", "1 and 2", "a, b and c"]
