"""Tensors put together and taken apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from debiexport.evaluate.ops.arguments import ints

Tensor = torch.Tensor


def concat(values: list[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    """The tensors one after the other along `axis`, or by turns an element of each; scalars become a vector."""
    if values[0].ndim == 0:
        return torch.stack(values)
    place = int(axis) % values[0].ndim
    if interleave is None or not bool(interleave):
        return torch.cat(values, place)
    sizes = list(values[0].shape)
    sizes[place] *= len(values)
    return torch.stack(values, place + 1).reshape(sizes)


def stack(values: list[Tensor], axis: Tensor) -> Tensor:
    """The tensors along a new axis of the result."""
    return torch.stack(values, int(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Parts of the given sizes along `axis`, or a number of equal ones."""
    if split_sizes is not None:
        return torch.split_with_sizes(x, ints(split_sizes), int(axis))
    size, count = x.shape[int(axis)], 1 if num_splits is None else int(num_splits)
    if count < 1 or size % count:
        raise ValueError(f"{size} elements in {count} equal parts")
    return torch.split_with_sizes(x, [size // count] * count, int(axis))


OPERATIONS: dict[str, Callable[..., Any]] = {"concat": concat, "split": split, "stack": stack}
