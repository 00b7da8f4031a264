"""What an unusual size or number of regions costs, said before anybody waits for it."""

from __future__ import annotations

from debiexport.cards import Card
from debiexport.errors import UsageError
from debiexport.geometry import Geometry

NOTABLE = 4.0
"""Times the multiply-adds of the card as it stands, from which on it is said."""


def cost_note(geometry: Geometry, card: Card) -> str | None:
    """One line on a network that does `NOTABLE` times the work of its card, and why; None for the others.

    Args:
        geometry: of the network that is wanted.
        card: the one that it was made from, without options.
    """
    try:
        usual = Geometry.of(card, card.default_image_size)
    except UsageError:  # a card of one's own whose crop is no size to export at
        return None
    work, times = geometry.multiply_adds, geometry.multiply_adds / usual.multiply_adds
    if times <= NOTABLE:
        return None
    size = "x".join(map(str, usual.image_size))
    if Geometry.of(card, geometry.image_size).multiply_adds > NOTABLE * usual.multiply_adds:
        than, why = f"at {size}", "attention over regions grows with the square of the pixels"
    else:
        than = f"of {card.name} with S = {card.regions}"
        why = "maps are padded to multiples of S, and affinities grow with its fourth power"
    return f"this network does {work / 1e9:.3g} G multiply-adds an image, {times:.1f} times those {than}: {why}"
