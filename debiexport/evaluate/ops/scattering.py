"""Elements written to places given by index."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from debiexport.evaluate.ops.arguments import indices_within

Tensor = torch.Tensor
_REDUCTIONS = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    ios: int,
    axis: Tensor | None = None,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    """`data` with slices of `updates` combined into it along `axis`, by default 0, at `indices` (a vector)."""
    place = 0 if axis is None else int(axis) % data.ndim
    chosen = indices_within(indices, data.shape[place], ios)
    shape = [-1 if i == place else 1 for i in range(data.ndim)]
    return _along(data, chosen.reshape(shape).expand(updates.shape), updates, place, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    ios: int,
    axis: Tensor | None = None,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    """`data` with each element of `updates` combined into it at its index along `axis`, by default 0."""
    place = 0 if axis is None else int(axis) % data.ndim
    return _along(data, indices_within(indices, data.shape[place], ios), updates, place, mode)


def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    ios: int,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    """`data` with slices of `updates` combined into it at the places that the last axis of `indices` holds."""
    depth = indices.shape[-1]
    places = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(data.shape[:depth]):
        places = places * size + indices_within(indices[..., i], size, ios)
    rows, width = prod(data.shape[:depth]), prod(data.shape[depth:])
    chosen = places.reshape(-1, 1).expand(-1, width)
    return _along(data.reshape(rows, width), chosen, updates.reshape(-1, width), 0, mode).reshape(data.shape)


def _along(data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str) -> Tensor:
    """`data` after all updates; several for one place are combined, or the last one counts."""
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode not in _REDUCTIONS:
        raise ValueError(f"the mode {mode}")
    if mode == "div":
        divisors = torch.ones_like(data).scatter_reduce(axis, indices, updates, "prod")
        return data / divisors if data.is_floating_point() else torch.div(data, divisors, rounding_mode="trunc")
    return data.scatter_reduce(axis, indices, -updates if mode == "sub" else updates, _REDUCTIONS[mode])


OPERATIONS: dict[str, Callable[..., Any]] = {
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
}
