"""What an unusual size or number of regions costs, said before anybody waits for it."""

from __future__ import annotations

from debiexport.cards import Card
from debiexport.errors import UsageError
from debiexport.geometry import Geometry

NOTABLE = 4.0
"""Times the multiply-adds of the card as it stands, from which on it is said."""

SHARE = 1.5
"""Times the multiply-adds without an option, from which on that option is named as a cause."""


def cost_note(geometry: Geometry, card: Card) -> str | None:
    """One line on a network that does `NOTABLE` times the work of its card, and why; None for the others.

    The cause is the image size, the options (regions or top-k), or both.

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
    # What each is to blame for: what would be saved by leaving it as the card has it.
    by_size = work / Geometry.of(geometry.card, usual.image_size).multiply_adds >= SHARE
    by_options = work / Geometry.of(card, geometry.image_size).multiply_adds >= SHARE
    than, why = [], []
    if by_options or not by_size:
        own, reason = _options(geometry.card, card)
        than.append(f"of {card.name} with {own}")
        why.append(reason)
    if by_size or not by_options:
        than.append(f"at {'x'.join(map(str, usual.image_size))}")
        why.append("attention over regions grows with the square of the pixels")
    return (
        f"this network does {work / 1e9:.3g} G multiply-adds an image, {times:.1f} times those {' '.join(than)}:"
        f" {'; '.join(why)}"
    )


def _options(wanted: Card, card: Card) -> tuple[str, str]:
    """What the card has of its own in the place of an option, and why the option costs."""
    if wanted.regions != card.regions:
        return f"S = {card.regions}", "maps are padded to multiples of S, and affinities grow with its fourth power"
    return "its own top-k", "tokens attend to more regions"
