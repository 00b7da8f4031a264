"""Tensors made from sizes and numbers, and triangles cut out of matrices."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import Outputs, bounded, ints

Tensor = torch.Tensor


def constant_of_shape(shape: Tensor, /, *, outputs: Outputs, value: Tensor | None = None) -> Tensor:
    """A tensor of one value, by default a float32 0."""
    sizes = bounded(ints(shape), outputs)
    return torch.zeros(sizes) if value is None else value.reshape(()).expand(sizes)


def range_(start: Tensor, limit: Tensor, delta: Tensor, /, *, outputs: Outputs) -> Tensor:
    """`start`, `start + delta`, ... short of `limit`."""
    (first, last, step) = (each.reshape(()).item() for each in (start, limit, delta))
    if step == 0:
        raise ValueError("a step of 0")
    count = max(0, ceil((last - first) / step))
    bounded([count], outputs)
    return start.reshape(()) + delta.reshape(()) * torch.arange(count, dtype=delta.dtype)


def shape(x: Tensor, /, *, start: int = 0, end: int | None = None) -> Tensor:
    """The sizes of the axes of `x` from `start` to before `end`."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def size(x: Tensor, /) -> Tensor:
    """The number of elements of `x`."""
    return torch.tensor(prod(x.shape), dtype=torch.int64)


def trilu(x: Tensor, k: Tensor | None = None, /, *, upper: int = 1) -> Tensor:
    """Zero below the k-th diagonal of the last two axes, or above it if not `upper`."""
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "Shape": shape,
    "Size": size,
    "Trilu": trilu,
}
