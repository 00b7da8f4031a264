"""Reading the arguments of an operation."""

from __future__ import annotations

from math import prod

import torch

from debiexport.evaluate.onnx.types import MAX_ELEMENTS, TensorType

Outputs = tuple[TensorType | None, ...]


def ints(vector: torch.Tensor) -> list[int]:
    """The numbers of a vector of integers."""
    return [int(number) for number in vector.reshape(-1).tolist()]


def axis_within(axis: int, rank: int) -> int:
    """An axis from 0 to `rank` - 1; negative ones count from the end.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"the axis {axis} of {rank}")
    return axis % rank


def axes_within(axes: list[int], rank: int) -> list[int]:
    """Distinct axes, see `axis_within`.

    Raises:
        ValueError: there is no such axis, or one is named twice.
    """
    chosen = [axis_within(axis, rank) for axis in axes]
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"the axes {axes}, one of them twice")
    return chosen


def indices_within(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Indices as int64 from 0 to `size` - 1; negative ones count from the end.

    Raises:
        IndexError: one lies outside.
    """
    wide = indices.to(torch.int64)
    if wide.numel() and not (int(wide.min()) >= -size and int(wide.max()) < size):
        raise IndexError(f"indices from {int(wide.min())} to {int(wide.max())} of {size} elements")
    return torch.where(wide < 0, wide + size, wide)


def bounded(sizes: list[int], outputs: Outputs) -> list[int]:
    """The sizes of a result; memory is not taken for one that is not as declared.

    Raises:
        ValueError: it would not be, or would have too many elements.
    """
    declared = outputs[0]
    if any(size < 0 for size in sizes) or prod(sizes) > MAX_ELEMENTS or (declared and not declared.admits(sizes)):
        raise ValueError(f"a result of {sizes}, declared is {declared}")
    return sizes
