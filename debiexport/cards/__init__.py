"""Model cards: `models/*.toml` read once, checked, and frozen.

A card holds an architecture in the paper's symbols, its preprocessing, where its checkpoint lives
and what the paper reports. This package is the only reader of card files.
"""

from __future__ import annotations

from debiexport.cards.card import Card, PaperFigures, Provenance, Stage
from debiexport.cards.limits import (
    FAMILIES,
    INTERPOLATIONS,
    MAX_CARD_BYTES,
    MAX_IMAGE_SIDE,
    MAX_NUMBER,
    MAX_REGIONS,
    MIN_IMAGE_SIDE,
    MIXERS,
    OUTPUTS,
)
from debiexport.cards.parsing import card_from_dict, parse_card
from debiexport.cards.preprocessing import Preprocessing, resize_box
from debiexport.cards.shipped import card_names, iter_cards, load_card, shipped_checkpoint

__all__ = [
    "FAMILIES",
    "INTERPOLATIONS",
    "MAX_CARD_BYTES",
    "MAX_IMAGE_SIDE",
    "MAX_NUMBER",
    "MAX_REGIONS",
    "MIN_IMAGE_SIDE",
    "MIXERS",
    "OUTPUTS",
    "Card",
    "PaperFigures",
    "Preprocessing",
    "Provenance",
    "Stage",
    "card_from_dict",
    "card_names",
    "iter_cards",
    "load_card",
    "parse_card",
    "resize_box",
    "shipped_checkpoint",
]
