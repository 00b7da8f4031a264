"""A card with some of its choices replaced, as the options of a command ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from debiexport.cards.limits import MAX_REGIONS
from debiexport.errors import UsageError

if TYPE_CHECKING:
    from debiexport.cards.card import Card, Stage


def apply_options(
    card: Card,
    *,
    regions: int | None = None,
    top_k: Sequence[int] | None = None,
    bra_top_k: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> Card:
    """See `Card.with_options`."""
    if regions is not None:
        if not (isinstance(regions, int) and 2 <= regions <= MAX_REGIONS):
            raise UsageError(f"--regions is {regions}: allowed are 2 to {MAX_REGIONS} regions per side")
        card = replace(card, regions=regions)
    if num_classes is not None:
        if card.num_classes is None:
            raise UsageError(f"--num-classes was given, but {card.name} gives features and no classes: leave it out")
        if not (isinstance(num_classes, int) and 1 <= num_classes <= 1_000_000):
            raise UsageError(f"--num-classes is {num_classes}: allowed are 1 to 1000000 classes")
        card = replace(card, num_classes=num_classes)
    stages = card.stages
    if top_k is not None:
        stages = _replace_top_k(stages, "dbra_top_k", top_k, "--top-k", "DBRA", card)
    if bra_top_k is not None:
        stages = _replace_top_k(stages, "bra_top_k", bra_top_k, "--bra-top-k", "BRA", card)
    card = replace(card, stages=stages)
    limit = card.regions**2
    for i, stage in enumerate(stages, 1):
        for option, k in (("--top-k", stage.dbra_top_k), ("--bra-top-k", stage.bra_top_k)):
            if k is not None and k > limit:
                raise UsageError(
                    f"{option} is {k} in stage {i}: with S = {card.regions} there are {limit} regions;"
                    f" give at most {limit}"
                )
    return card


def _replace_top_k(
    stages: tuple[Stage, ...], attribute: str, values: Sequence[int], option: str, mixer: str, card: Card
) -> tuple[Stage, ...]:
    routed = [i for i, stage in enumerate(stages) if getattr(stage, attribute) is not None]
    if not routed:
        raise UsageError(f"{option} was given, but {card.name} has no {mixer}")
    if isinstance(values, int | str) or not all(isinstance(k, int) for k in values):
        raise UsageError(f"{option} is {values!r}: give whole numbers, one for each stage that has {mixer}")
    if len(values) != len(routed):
        raise UsageError(
            f"{option} has {len(values)} values: {card.name} has {mixer} in {len(routed)} stages; give {len(routed)}"
        )
    if any(k < 1 for k in values):
        raise UsageError(f"{option} is {','.join(map(str, values))}: every value must be at least 1")
    out = list(stages)
    for i, k in zip(routed, values, strict=True):
        changed: dict[str, Any] = {attribute: k}
        out[i] = replace(out[i], **changed)
    return tuple(out)
