"""In what a network departs from its card: it has the card's weights and is not what they were trained for."""

from __future__ import annotations

from debiexport.cards import Card


def departure_note(card: Card, trained: Card) -> str | None:
    """One line on regions and top-k that differ; None where none do."""
    pairs = (
        ("regions per side", trained.regions, card.regions),
        ("top-k of DBRA", trained.top_k, card.top_k),
        ("top-k of BRA", trained.bra_top_k, card.bra_top_k),
    )
    changed = [f"{what} {_text(new)} instead of {_text(old)}" for what, old, new in pairs if old != new]
    if not changed:
        return None
    return f"this is not the network that was trained: {', '.join(changed)}; measure its accuracy"


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
