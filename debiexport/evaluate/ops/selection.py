"""Elements chosen by index or by order."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from debiexport.evaluate.ops.arguments import Outputs, bounded, indices_within

Tensor = torch.Tensor


def gather(
    x: Tensor,
    indices: Tensor,
    ios: int,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    """Slices of `x` along `axis`, by default 0, in the order of `indices`.

    The first `batch_dims` axes of `x` and `indices` go together. The other axes of `indices` take the place of
    `axis`.
    """
    place = 0 if axis is None else int(axis) % x.ndim
    batch = 0 if batch_dims is None else int(batch_dims)
    chosen = indices_within(indices, x.shape[place], ios)
    between, inner = place - batch, list(chosen.shape[batch:])
    rows = x.movedim(place, batch).reshape(prod(x.shape[:batch]), x.shape[place], -1)
    taken = rows[torch.arange(len(rows)).unsqueeze(1), chosen.reshape(len(rows), -1)]
    others = [*x.shape[batch:place], *x.shape[place + 1 :]]
    result = taken.reshape([*x.shape[:batch], *inner, *others])
    # From (batch, indices, before, after) to (batch, before, indices, after).
    first = batch + len(inner)
    order = [*range(batch), *range(first, first + between), *range(batch, first), *range(first + between, result.ndim)]
    return result.permute(order)


def gather_along_axis(
    x: Tensor, indices: Tensor, ios: int, axis: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    """For each index the element of `x` at that place of `axis`, by default 0, and the same place of the others."""
    place = 0 if axis is None else int(axis)
    return x.gather(place, indices_within(indices, x.shape[place], ios))


def gather_nd(
    x: Tensor, indices: Tensor, ios: int, batch_dims: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    """Slices of `x` at the places that the last axis of `indices` holds; the first `batch_dims` axes go together."""
    batch, depth = 0 if batch_dims is None else int(batch_dims), indices.shape[-1]
    sizes, rest = x.shape[batch : batch + depth], list(x.shape[batch + depth :])
    if len(sizes) != depth:
        raise ValueError(f"places of {depth} axes in {list(x.shape)} after {batch}")
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(sizes):
        flat = flat * size + indices_within(indices[..., i], size, ios)
    rows = x.reshape([prod(x.shape[:batch]), prod(sizes), *rest])
    taken = rows[torch.arange(len(rows)).unsqueeze(1), flat.reshape(len(rows), -1)]
    return taken.reshape([*indices.shape[:-1], *rest])


def topk(
    x: Tensor,
    k: Tensor | None = None,
    axis: Tensor | None = None,
    ascending: Tensor | None = None,
    sort: Tensor | None = None,
    return_indices: Tensor | None = None,
    output_indices_dtype: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """The k largest elements along `axis`, or smallest if `ascending`, and their indices; of ties the first one.

    Args:
        x: of any shape.
        k: 1 by default; -1 is all.
        axis: the last one by default.
        ascending: false by default.
        sort: where false, any order will do; the result is sorted nevertheless.
        return_indices: true by default.
        output_indices_dtype: what is declared anyway.
    """
    place, count = -1 if axis is None else int(axis), 1 if k is None else int(k)
    values, indices = _sorted(x, place, ascending)
    count = x.shape[place] if count == -1 else count
    values, indices = values.narrow(place, 0, count), indices.narrow(place, 0, count)
    return values if return_indices is not None and not bool(return_indices) else (values, indices)


def argsort(x: Tensor, axis: Tensor | None = None, ascending: Tensor | None = None) -> Tensor:
    """The indices that sort `x` along `axis`, by default the last one, largest first unless `ascending`."""
    return _sorted(x, -1 if axis is None else int(axis), ascending)[1]


def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    outputs: Outputs,
    axis: Tensor | None = None,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """A new axis, by default the last one, that holds `on_value` (1) at the index and `off_value` (0) elsewhere."""
    size, rank = int(one_hot_vector_size), indices.ndim + 1
    bounded([*indices.shape, size], outputs)
    place = rank - 1 if axis is None else int(axis) % rank
    ruler = torch.arange(size).reshape([-1 if i == place else 1 for i in range(rank)])
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value
    off = torch.zeros((), dtype=on.dtype) if off_value is None else off_value
    return torch.where(indices.unsqueeze(place) == ruler, on, off)


def cumsum(
    x: Tensor, axis: Tensor | None = None, exclusive: Tensor | None = None, reverse: Tensor | None = None
) -> Tensor:
    """Sums of the elements so far along `axis`, by default 0; without the element itself if `exclusive`."""
    place = 0 if axis is None else int(axis)
    backwards = reverse is not None and bool(reverse)
    walked = x.flip(place) if backwards else x
    sums = walked.cumsum(place)
    if exclusive is not None and bool(exclusive):
        sums = sums - walked
    return sums.flip(place) if backwards else sums


def band_part(x: Tensor, lower: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    """Zero outside a band of the last two axes: so many diagonals below and above the main one, all if negative."""
    below, above = -1 if lower is None else int(lower), -1 if upper is None else int(upper)
    rows, columns = torch.arange(x.shape[-2]).unsqueeze(1), torch.arange(x.shape[-1])
    outside = torch.zeros(x.shape[-2:], dtype=torch.bool)
    if below >= 0:
        outside = outside | (rows - columns > below)
    if above >= 0:
        outside = outside | (columns - rows > above)
    return x.masked_fill(outside, 0)


def _sorted(x: Tensor, axis: int, ascending: Tensor | None) -> tuple[Tensor, Tensor]:
    up = ascending is not None and bool(ascending)
    values, indices = torch.sort(x, dim=axis, descending=not up, stable=True)
    return values, indices


OPERATIONS: dict[str, Callable[..., Any]] = {
    "argsort": argsort,
    "band_part": band_part,
    "cumsum": cumsum,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "one_hot": one_hot,
    "topk": topk,
}
