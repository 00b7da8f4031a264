"""How much a window that slides over spatial axes is padded."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F

from debiexport.evaluate.ops.arguments import ints

MAX_POSITIONS = 2**26  # of padded spatial axes

Pairs = list[tuple[int, int]]


def window_padding(
    pad_type: str, pad: torch.Tensor | None, sizes: list[int], kernel: list[int], strides: list[int]
) -> Pairs:
    """Elements to add before and after each spatial axis.

    Args:
        pad_type: "valid" adds none; "custom" what `pad` says; "same" and "same_lower" as many as make
            ceil(size / stride) results, an odd one after the axis or before it.
        pad: before and after the first axis, then the second, ...
        sizes, kernel, strides: of each axis; the kernel with its dilation.

    Raises:
        ValueError: another `pad_type`, a `pad` of another length, or one so large that it is a damaged number.
    """
    if pad_type == "valid" or (pad_type == "custom" and pad is None):
        return [(0, 0)] * len(sizes)
    if pad_type == "custom" and pad is not None:
        numbers = ints(pad)
        if len(numbers) != 2 * len(sizes):
            raise ValueError(f"{len(numbers)} numbers of padding for {len(sizes)} spatial axes")
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        if prod(size + sum(pair) for size, pair in zip(sizes, pairs, strict=True)) > MAX_POSITIONS:
            raise ValueError(f"padding of {numbers} around {sizes}")
        return pairs
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"the padding {pad_type}")
    totals = [
        max(0, (-(-size // stride) - 1) * stride + width - size)
        for size, width, stride in zip(sizes, kernel, strides, strict=True)
    ]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if pad_type == "same" else [(after, before) for before, after in halves]


def pad_spatially(x: torch.Tensor, pairs: Pairs, value: float) -> torch.Tensor:
    """`x` with elements of a value around its last axes, one pair an axis."""
    flat = [number for pair in reversed(pairs) for number in pair]
    return F.pad(x, flat, value=value) if any(flat) else x
