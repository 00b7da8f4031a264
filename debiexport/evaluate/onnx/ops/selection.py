"""Elements chosen by index or by order."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import axis_within, indices_within, ints

Tensor = torch.Tensor


def gather(data: Tensor, indices: Tensor, /, *, axis: int = 0) -> Tensor:
    """Slices of `data` along `axis`; the axes of `indices` take its place."""
    place = axis_within(axis, data.ndim)
    chosen = indices_within(indices, data.shape[place])
    taken = data.index_select(place, chosen.reshape(-1))
    return taken.reshape([*data.shape[:place], *chosen.shape, *data.shape[place + 1 :]])


def gather_elements(data: Tensor, indices: Tensor, /, *, axis: int = 0) -> Tensor:
    """For each index the element of `data` at that place of `axis`, and the same place of the others."""
    place = axis_within(axis, data.ndim)
    return data.gather(place, indices_within(indices, data.shape[place]))


def gather_nd(data: Tensor, indices: Tensor, /, *, batch_dims: int = 0) -> Tensor:
    """Slices of `data` at the places that the last axis of `indices` holds; the first `batch_dims` axes go together."""
    depth = indices.shape[-1]
    sizes, rest = data.shape[batch_dims : batch_dims + depth], list(data.shape[batch_dims + depth :])
    if len(sizes) != depth or data.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"places {list(indices.shape)} in {list(data.shape)} after {batch_dims} axes")
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(sizes):
        flat = flat * size + indices_within(indices[..., i], size)
    batch = prod(data.shape[:batch_dims])
    rows = data.reshape([batch, prod(sizes), *rest])
    taken = rows[torch.arange(batch).unsqueeze(1), flat.reshape(batch, prod(indices.shape[batch_dims:-1]))]
    return taken.reshape([*indices.shape[:-1], *rest])


def top_k(x: Tensor, k: Tensor, /, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The k largest elements along `axis`, or smallest, and their indices; of ties the first one.

    Args:
        x: of any shape.
        k: a vector of one number.
        axis: to choose along.
        largest: whether the largest are chosen.
        sorted: where not, any order will do; the result is sorted nevertheless.
    """
    (count,) = ints(k)
    place = axis_within(axis, x.ndim)
    if not 0 <= count <= x.shape[place]:
        raise ValueError(f"the {count} largest of {x.shape[place]}")
    values, indices = torch.sort(x, dim=place, descending=bool(largest), stable=True)
    return values.narrow(place, 0, count), indices.narrow(place, 0, count)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "TopK": top_k,
}
