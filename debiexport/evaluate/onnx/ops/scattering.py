"""Elements written to places given by index."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import axis_within, indices_within

Tensor = torch.Tensor
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, /, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """`data` with each element of `updates` written, or combined into it, at its index along `axis`."""
    place = axis_within(axis, data.ndim)
    if indices.shape != updates.shape:
        raise ValueError(f"{list(updates.shape)} updates at {list(indices.shape)} indices")
    return _along(data, indices_within(indices, data.shape[place]), updates, place, reduction)


def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, /, *, reduction: str = "none") -> Tensor:
    """`data` with slices of `updates` written, or combined into it, at the places in the last axis of `indices`."""
    depth = indices.shape[-1]
    if depth > data.ndim or updates.shape != indices.shape[:-1] + data.shape[depth:]:
        raise ValueError(f"updates {list(updates.shape)} at places {list(indices.shape)} of {list(data.shape)}")
    places = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(data.shape[:depth]):
        places = places * size + indices_within(indices[..., i], size)
    rows, width = prod(data.shape[:depth]), prod(data.shape[depth:])
    chosen = places.reshape(-1, 1).expand(-1, width)
    written = _along(data.reshape(rows, width), chosen, updates.reshape(-1, width), 0, reduction)
    return written.reshape(data.shape)


def _along(data: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str) -> Tensor:
    """`data` after all updates; several for one place are combined, or any one of them counts."""
    if reduction == "none":
        return data.scatter(axis, indices, updates)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"the reduction {reduction}")
    return data.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


OPERATIONS: dict[str, Callable[..., Any]] = {"ScatterElements": scatter_elements, "ScatterND": scatter_nd}
