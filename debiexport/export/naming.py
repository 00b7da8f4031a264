"""Where a bundle goes if nobody says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from debiexport.cards import Card
from debiexport.signature import NORMALIZED


def default_output(
    card: Card,
    size: tuple[int, int],
    batch: int | None,
    input: str = NORMALIZED,
    *,
    target: str = "onnx",
    variants: Sequence[str] = (),
) -> Path:
    """`artifacts/NAME-TARGET-HxW-bN`, and what else is not the default.

    Args:
        batch: images per run, None for any number.
        variants: names of choices that are not the default, such as a lowering's.
    """
    name = f"{card.name}-{target}-{size[0]}x{size[1]}-b{'dynamic' if batch is None else batch}"
    more = [*([] if input == NORMALIZED else [input]), *variants]
    return Path("artifacts") / "-".join([name, *more]).replace("=", "-").replace(",", "-")
