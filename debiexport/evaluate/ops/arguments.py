"""Reading the arguments of an operation."""

from __future__ import annotations

from math import prod

import torch

from debiexport.evaluate.rounding import round_to
from debiexport.evaluate.values import TensorType

Outputs = tuple[TensorType, ...]


def ints(vector: torch.Tensor) -> list[int]:
    """The numbers of a vector of integers; those of a scalar are one."""
    return [int(number) for number in vector.reshape(-1).tolist()]


def spatial_ints(vector: torch.Tensor | None, dimensions: int, default: int) -> list[int]:
    """One number for each spatial axis; `default` each if there is no vector.

    Raises:
        ValueError: the vector has another length.
    """
    if vector is None:
        return [default] * dimensions
    numbers = ints(vector)
    if len(numbers) != dimensions:
        raise ValueError(f"{len(numbers)} numbers for {dimensions} spatial axes")
    return numbers


def epsilon_of(epsilon: torch.Tensor | None, default: float, outputs: Outputs) -> torch.Tensor:
    """The constant that keeps a division finite; the default is of the type of the result, like a given one."""
    return round_to(torch.tensor(default), outputs[0].dtype) if epsilon is None else epsilon


def indices_within(indices: torch.Tensor, size: int, ios: int) -> torch.Tensor:
    """Indices as int64 from 0 to `size` - 1; until iOS 16 negative ones count from the end.

    Raises:
        IndexError: one lies outside, for which no result is defined.
    """
    wide = indices.to(torch.int64)
    if ios < 17:
        wide = torch.where(wide < 0, wide + size, wide)
    if wide.numel() and not (int(wide.min()) >= 0 and int(wide.max()) < size):
        raise IndexError(f"indices from {int(indices.min())} to {int(indices.max())} of {size} elements")
    return wide


def bounded(sizes: list[int], outputs: Outputs) -> list[int]:
    """The sizes of a result; memory is not taken for one that is larger than the declared one.

    Raises:
        ValueError: it would be.
    """
    if prod(sizes) > outputs[0].size:
        raise ValueError(f"a result of {sizes}, declared is {outputs[0]}")
    return sizes
