"""Operations that move elements or make tensors, and compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any

import torch

from debiexport.evaluate.ops.arguments import Outputs, bounded, ints

Tensor = torch.Tensor


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    """The axes in another order."""
    return x.permute(ints(perm))


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """The elements in another shape.

    Args:
        x: of any shape.
        shape: at most one size is -1, which is what is left. 0 is the size of the axis of `x` that is as far
            from the last one, or 1 where `x` has none.
    """
    wanted = ints(shape)
    sizes = [1] * (len(wanted) - x.ndim) + list(x.shape)[max(x.ndim - len(wanted), 0) :]
    return x.reshape([old if new == 0 else new for new, old in zip(wanted, sizes, strict=True)])


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    """Axes of size 1 at the places `axes` of the result."""
    places = ints(axes)
    rank = x.ndim + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """`x` without the axes, by default all, of size 1."""
    if axes is None:
        return x.squeeze()
    gone = {axis % x.ndim for axis in ints(axes)}
    if any(x.shape[axis] != 1 for axis in gone):
        raise ValueError(f"axes {sorted(gone)} of {list(x.shape)}, not all of size 1")
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone])


def flatten2d(x: Tensor, axis: Tensor | None = None) -> Tensor:
    """Two axes: those before `axis`, by default 1, and the others."""
    place = 1 if axis is None else int(axis)
    return x.reshape(prod(x.shape[:place]), prod(x.shape[place:]))


def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """`x` back to front along axes, by default all."""
    return x.flip(list(range(x.ndim)) if axes is None else ints(axes))


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """`x[begin[0]:end[0]:stride[0], ...]` as in Python.

    Args:
        x: of as many axes as the others have elements.
        begin, end: negative ones count from the end of the axis.
        stride: negative ones walk backwards.
        begin_mask, end_mask: where set, the slice starts at the first element and ends after the last one; the
            other way round where it walks backwards.
        squeeze_mask: where set, the one element at `begin` is taken and the axis goes.
    """
    kept, gone = _walks(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, walk in enumerate(kept):
        x = _walked(x, axis, walk)
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone])


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """`x` with `update` in place of a slice; see `slice_by_index`."""
    kept, _ = _walks(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    places = torch.meshgrid(*(torch.tensor(list(walk), dtype=torch.int64) for walk in kept), indexing="ij")
    result = x.clone()
    result[places] = update.reshape([len(walk) for walk in kept])
    return result


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """`size[i]` elements from `begin[i]` of every axis; all that follow where the size is -1."""
    for axis, (start, count) in enumerate(zip(ints(begin), ints(size), strict=True)):
        first = start + x.shape[axis] if start < 0 else start
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def pad(x: Tensor, pad: Tensor, outputs: Outputs, mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    """`x` with elements around its last axes.

    Args:
        x: of any shape.
        pad: before and after each of the last axes, in their order.
        outputs: see `ops`.
        mode: "constant", "reflect" (without the edge itself) or "replicate" (the edge).
        constant_val: the elements in the mode "constant", 0 by default.
    """
    numbers = ints(pad)
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    first = x.ndim - len(pairs)
    bounded([size + sum(pair) for size, pair in zip(x.shape[first:], pairs, strict=True)], outputs)
    if mode == "constant":
        flat = [number for pair in reversed(pairs) for number in pair]
        value = 0 if constant_val is None else constant_val.item()
        return torch.nn.functional.pad(x, flat, value=value)
    for axis, (before, after) in enumerate(pairs, first):
        size = x.shape[axis]
        places = torch.arange(-before, size + after)
        if mode == "replicate":
            places = places.clamp(0, size - 1)
        elif mode == "reflect" and before < size and after < size:
            places = size - 1 - (size - 1 - places.abs()).abs()
        else:
            raise ValueError(f"the mode {mode} with {before} and {after} elements around {size}")
        x = x.index_select(axis, places) if before or after else x
    return x


def tile(x: Tensor, reps: Tensor, outputs: Outputs) -> Tensor:
    """`x` repeated `reps[i]` times along axis i."""
    times = ints(reps)
    bounded([size * count for size, count in zip(x.shape, times, strict=True)], outputs)
    return x.repeat(times)


def shape(x: Tensor) -> Tensor:
    """The sizes of the axes of `x`."""
    return torch.tensor(list(x.shape), dtype=torch.int32)


def fill(shape: Tensor, outputs: Outputs, value: Tensor | None = None) -> Tensor:
    """A tensor of one value, by default 0."""
    sizes = bounded(ints(shape), outputs)
    return torch.zeros(sizes) if value is None else value.reshape([1] * len(sizes)).repeat(sizes)


def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    """A tensor of one value, by default 0, of the shape of another one."""
    return torch.zeros(ref_tensor.shape) if value is None else value.reshape(()).repeat(ref_tensor.shape)


def range_1d(start: Tensor, end: Tensor, step: Tensor, outputs: Outputs) -> Tensor:
    """`start`, `start + step`, ... short of `end`."""
    count = max(0, ceil((end.item() - start.item()) / step.item()))
    bounded([count], outputs)
    return start + step * torch.arange(count, dtype=step.dtype)


def _walks(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> tuple[list[range], set[int]]:
    """The elements to take of each axis, and the axes that go."""
    steps = [1] * x.ndim if stride is None else ints(stride)
    open_begin, open_end, single = (
        [0] * x.ndim if mask is None else ints(mask) for mask in (begin_mask, end_mask, squeeze_mask)
    )
    walks = []
    for axis, (first, last, step, size) in enumerate(zip(ints(begin), ints(end), steps, x.shape, strict=True)):
        start = None if open_begin[axis] else first
        if single[axis]:
            place = range(size)[start or 0]
            walks.append(range(place, place + 1))
        else:
            walks.append(range(size)[slice(start, None if open_end[axis] else last, step)])
    return walks, {axis for axis, alone in enumerate(single) if alone}


def _walked(x: Tensor, axis: int, walk: range) -> Tensor:
    if walk.step > 0:  # a view costs nothing
        return x[(slice(None),) * axis + (slice(walk.start, walk.start + len(walk) * walk.step, walk.step),)]
    return x.index_select(axis, torch.tensor(list(walk), dtype=torch.int64))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "flatten2d": flatten2d,
    "pad": pad,
    "range_1d": range_1d,
    "reshape": reshape,
    "reverse": reverse,
    "shape": shape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
    "squeeze": squeeze,
    "tile": tile,
    "transpose": transpose,
}
