"""Windows that slide over spatial axes: padding, strides, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F

MAX_POSITIONS = 2**26  # of padded spatial axes

Pairs = list[tuple[int, int]]


@dataclass(frozen=True)
class Windows:
    """Numbers of each spatial axis.

    Attributes:
        kernel: elements of a window.
        strides: from one window to the next.
        dilations: from one element of a window to the next.
        pairs: padding before and after the axis.
        beyond: what a ceiling of the number of windows needs after the padding.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pairs: Pairs
    beyond: list[int]

    def pad(self, x: torch.Tensor, value: float) -> torch.Tensor:
        """`x` with elements of a value around its spatial axes."""
        ends = [(before, after + more) for (before, after), more in zip(self.pairs, self.beyond, strict=True)]
        return pad_last(x, ends, value)


def pad_last(x: torch.Tensor, pairs: Pairs, value: float) -> torch.Tensor:
    """`x` with elements of a value around its last axes, one pair an axis; negative numbers cut off."""
    flat = [number for pair in reversed(pairs) for number in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def windows(
    sizes: list[int],
    kernel: list[int],
    *,
    auto_pad: str,
    strides: list[int] | None,
    pads: list[int] | None,
    dilations: list[int] | None,
    ceil_mode: int = 0,
) -> Windows:
    """The windows over axes of the given sizes; arguments bear the names of the attributes.

    Raises:
        ValueError: another `auto_pad`, a list of another length, or numbers so large that they are damaged.
    """
    rank = len(sizes)
    steps, spread = strides or [1] * rank, dilations or [1] * rank
    if not len(kernel) == len(steps) == len(spread) == rank:
        raise ValueError(f"a kernel {kernel}, strides {steps} and dilations {spread} for {rank} spatial axes")
    if min([*kernel, *steps, *spread], default=1) < 1:
        raise ValueError(f"a kernel {kernel}, strides {steps} and dilations {spread}")
    reach = [(width - 1) * dilation + 1 for width, dilation in zip(kernel, spread, strict=True)]
    pairs = _padding(auto_pad, pads, sizes, reach, steps)
    padded = [size + before + after for size, (before, after) in zip(sizes, pairs, strict=True)]
    if prod(padded) > MAX_POSITIONS or prod(kernel) > MAX_POSITIONS:
        raise ValueError(f"padding of {pads} around {sizes}")
    beyond = [0] * rank
    if ceil_mode:
        for i, (size, (before, after)) in enumerate(zip(sizes, pairs, strict=True)):
            count = -(-(padded[i] - reach[i]) // steps[i]) + 1
            if before + after > 0 and (count - 1) * steps[i] >= size + before:  # a window of padding alone
                count -= 1
            beyond[i] = max(0, (count - 1) * steps[i] + reach[i] - padded[i])
    return Windows(kernel, steps, spread, pairs, beyond)


def _padding(auto_pad: str, pads: list[int] | None, sizes: list[int], reach: list[int], steps: list[int]) -> Pairs:
    rank = len(sizes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-size // step) - 1) * step + width - size)
            for size, width, step in zip(sizes, reach, steps, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        return halves if auto_pad == "SAME_UPPER" else [(after, before) for before, after in halves]
    if auto_pad not in ("NOTSET", "VALID"):
        raise ValueError(f"the padding {auto_pad}")
    numbers = pads if pads is not None and auto_pad == "NOTSET" else [0] * (2 * rank)
    if len(numbers) != 2 * rank or min(numbers, default=0) < 0:
        raise ValueError(f"the padding {numbers} for {rank} spatial axes")
    return list(zip(numbers[:rank], numbers[rank:], strict=True))
