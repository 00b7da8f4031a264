"""Cards: shipped and tiny ones are what their files say, and stay so."""

from __future__ import annotations

import json
import tomllib
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from debiexport.cards import Card, card_from_dict, card_names, load_card

DEBI = "debi_t"


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
