"""What is said of costly networks, and that usual ones are left in peace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from debiexport.cards import Card, card_names, load_card
from debiexport.cost import NOTABLE, cost_note
from debiexport.errors import InputError
from debiexport.export import export_onnx
from debiexport.geometry import Geometry


@pytest.mark.parametrize("name", card_names())
def test_every_card_as_it_stands_is_usual(name: str) -> None:
    card = load_card(name)
    assert cost_note(Geometry.of(card, card.default_image_size), card) is None


def test_a_large_image() -> None:
    card = load_card("debi_t")
    geometry = Geometry.of(card, (448, 896))
    times = geometry.multiply_adds / Geometry.of(card, (224, 224)).multiply_adds
    assert cost_note(geometry, card) == (
        f"this network does {geometry.multiply_adds / 1e9:.3g} G multiply-adds an image, {times:.1f} times those at"
        " 224x224: attention over regions grows with the square of the pixels"
    )
    assert times > NOTABLE
    assert cost_note(Geometry.of(card, (256, 256)), card) is None


@pytest.mark.parametrize("options", [{"regions": 64}, {"regions": 32, "top_k": (1024, 8, 16, 49)}])
def test_many_regions(options: dict[str, Any]) -> None:
    card = load_card("debi_t")
    note = cost_note(Geometry.of(card.with_options(**options), (224, 224)), card)
    assert note is not None
    assert "times those of debi_t with S = 7: maps are padded to multiples of S, and affinities grow" in note


def test_the_cause_is_what_it_is() -> None:
    """Regions at a large image: both, unless one of them would have made no difference."""
    card = load_card("debi_t")
    regions, pixels = "maps are padded to multiples of S", "attention over regions grows with the square of the pixels"

    def note(size: tuple[int, int], **options: Any) -> str:
        found = cost_note(Geometry.of(card.with_options(**options), size), card)
        assert found is not None
        return found

    both = note((448, 896), regions=32)
    assert " times those of debi_t with S = 7 at 224x224: " in both
    assert regions in both and both.endswith(f"; {pixels}")
    only_regions = note((256, 256), regions=64)
    assert regions in only_regions and pixels not in only_regions
    only_pixels = note((448, 896), regions=8)
    assert regions not in only_pixels and only_pixels.endswith(f"at 224x224: {pixels}")


def test_top_k_at_a_large_image() -> None:
    card = load_card("debi_t")
    everywhere = card.with_options(top_k=(49, 49, 49, 49), bra_top_k=(49, 49, 49))
    note = cost_note(Geometry.of(everywhere, (448, 896)), card)
    assert note is not None
    assert "times those of debi_t with its own top-k at 224x224: tokens attend to more regions; attention" in note


def test_a_card_whose_own_size_is_none(tiny_card: Card) -> None:
    odd = replace(tiny_card, preprocessing=replace(tiny_card.preprocessing, crop=8))
    assert cost_note(Geometry.of(odd, (512, 512)), odd) is None


def test_it_is_said_before_anything_is_computed(tiny_card: Card, tmp_path: Path) -> None:
    lines: list[str] = []
    labels = tmp_path / "labels"
    labels.write_text("one\n")
    with pytest.raises(InputError):  # stopped right after the weights
        export_onnx(tiny_card, labels=labels, image_size=512, output=tmp_path / "out", progress=lines.append)
    assert lines[0].startswith("note: this network does ")
    assert lines[1].startswith("reading the weights")
