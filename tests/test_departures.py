"""Networks that are not the ones that were trained are said to be so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from debiexport.cards import Card, load_card
from debiexport.departures import departure_note
from debiexport.errors import InputError, UsageError
from debiexport.export import export_onnx


def test_what_differs_is_named() -> None:
    card = load_card("debi_t")
    assert departure_note(card, card) is None
    assert departure_note(card.with_options(num_classes=7), card) is None
    note = departure_note(card.with_options(regions=8, top_k=(1, 2, 3, 4)), card)
    assert note is not None
    assert "regions per side 8 instead of 7" in note and "top-k of DBRA 1,2,3,4 instead of" in note


def test_it_is_said_before_the_export(tmp_path: Path) -> None:
    lines: list[str] = []
    labels = tmp_path / "labels"
    labels.write_text("one\n")
    with pytest.raises(InputError):  # stopped right after the weights
        export_onnx("debi_nano", top_k=(1, 2, 3, 4), labels=labels, output=tmp_path / "out", progress=lines.append)
    assert any(
        line.startswith("note: this is not the network that was trained: top-k of DBRA 1,2,3,4") for line in lines
    )


@pytest.mark.parametrize("classes", [7, 1000])
def test_weights_that_ship_are_not_traded_for_random_ones(tmp_path: Path, classes: int) -> None:
    with pytest.raises(
        UsageError, match=f"--num-classes is {classes}, but the weights that ship with debi_nano have 10"
    ):
        export_onnx("debi_nano", num_classes=classes, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_ship_and_do_not_fit_are_said_to_be_left_out(tmp_path: Path, tiny_card: Card) -> None:
    lines: list[str] = []
    labels = tmp_path / "labels"
    labels.write_text("one\n")
    card = replace(tiny_card, name="debi_nano")
    with pytest.raises(InputError):
        export_onnx(card, image_size=64, labels=labels, output=tmp_path / "out", progress=lines.append)
    assert "note: the weights that ship with debi_nano do not fit this card and are left out" in lines
