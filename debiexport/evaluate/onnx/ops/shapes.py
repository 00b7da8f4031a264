"""Operations that move elements, and compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import Outputs, axes_within, axis_within, bounded, ints

Tensor = torch.Tensor


def transpose(x: Tensor, /, *, perm: list[int] | None = None) -> Tensor:
    """The axes in another order, by default reversed."""
    return x.permute(list(reversed(range(x.ndim))) if perm is None else perm)


def reshape(x: Tensor, shape: Tensor, /, *, allowzero: int = 0) -> Tensor:
    """The elements in another shape.

    Args:
        x: of any shape.
        shape: at most one size is -1, which is what is left. 0 is the size of the same axis of `x`.
        allowzero: 0 is no elements at all.
    """
    wanted = ints(shape)
    if not allowzero:
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(x: Tensor, /, *, axis: int = 1) -> Tensor:
    """Two axes: those before `axis`, and the others."""
    place = axis_within(axis, x.ndim + 1) if axis >= 0 else axis_within(axis, x.ndim)
    return x.reshape(prod(x.shape[:place]), prod(x.shape[place:]))


def squeeze(x: Tensor, axes: Tensor | None = None, /) -> Tensor:
    """`x` without the axes, by default all, of size 1."""
    if axes is None:
        return x.squeeze()
    gone = axes_within(ints(axes), x.ndim)
    if any(x.shape[axis] != 1 for axis in gone):
        raise ValueError(f"axes {gone} of {list(x.shape)}, not all of size 1")
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone])


def unsqueeze(x: Tensor, axes: Tensor, /) -> Tensor:
    """Axes of size 1 at the places `axes` of the result."""
    places = ints(axes)
    for place in sorted(axes_within(places, x.ndim + len(places))):
        x = x.unsqueeze(place)
    return x


def expand(x: Tensor, shape: Tensor, /, *, outputs: Outputs) -> Tensor:
    """`x` repeated along axes of size 1; the shape is broadcast with that of `x`."""
    wanted = ints(shape)
    wanted = [1] * (x.ndim - len(wanted)) + wanted
    own = [1] * (len(wanted) - x.ndim) + list(x.shape)
    sizes = [size if new == 1 else new for size, new in zip(own, wanted, strict=True)]
    return x.expand(bounded(sizes, outputs))


def tile(x: Tensor, repeats: Tensor, /, *, outputs: Outputs) -> Tensor:
    """`x` repeated `repeats[i]` times along axis i."""
    times = ints(repeats)
    bounded([size * count for size, count in zip(x.shape, times, strict=True)], outputs)
    return x.repeat(times)


def slice_(
    x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None, /
) -> Tensor:
    """`x[starts[0]:ends[0]:steps[0], ...]` as in Python, along the axes named, by default the first ones."""
    begins = ints(starts)
    chosen = axes_within(list(range(len(begins))) if axes is None else ints(axes), x.ndim)
    strides = [1] * len(begins) if steps is None else ints(steps)
    for axis, begin, end, step in zip(chosen, begins, ints(ends), strides, strict=True):
        walk = range(x.shape[axis])[slice(begin, end, step)]
        if step > 0:  # a view costs nothing
            x = x[(slice(None),) * axis + (slice(walk.start, walk.start + len(walk) * step, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(walk), dtype=torch.int64))
    return x


def depth_to_space(x: Tensor, /, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """(N, C f f, H, W) -> (N, C, H f, W f).

    Args:
        x: the images.
        blocksize: f.
        mode: "DCR", the channel of the result runs fastest in that of `x`; "CRD", the place in the block does.
    """
    n, channels, height, width = x.shape
    f, rest = blocksize, channels // blocksize**2
    if mode == "DCR":
        blocks = x.reshape(n, f, f, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    elif mode == "CRD":
        blocks = x.reshape(n, rest, f, f, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        raise ValueError(f"the mode {mode}")
    return blocks.reshape(n, rest, height * f, width * f)


def space_to_depth(x: Tensor, /, *, blocksize: int) -> Tensor:
    """(N, C, H f, W f) -> (N, f f C, H, W); undoes `depth_to_space` of mode DCR."""
    n, channels, height, width = x.shape
    f = blocksize
    blocks = x.reshape(n, channels, height // f, f, width // f, f).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, channels * f**2, height // f, width // f)


def pad(
    x: Tensor,
    pads: Tensor,
    constant_value: Tensor | None = None,
    axes: Tensor | None = None,
    /,
    *,
    outputs: Outputs,
    mode: str = "constant",
) -> Tensor:
    """`x` with elements around its axes; negative numbers cut off.

    Args:
        x: of any shape.
        pads: before each axis, then after each.
        constant_value: the elements in the mode "constant", 0 by default.
        axes: all by default.
        outputs: see `ops`.
        mode: "constant", "reflect" (without the edge itself), "edge", or "wrap" (the other end).
    """
    chosen = axes_within(list(range(x.ndim)) if axes is None else ints(axes), x.ndim)
    numbers = ints(pads)
    count = len(chosen)
    pairs = dict(zip(chosen, zip(numbers[:count], numbers[count:], strict=True), strict=True))
    bounded([size + sum(pairs.get(axis, (0, 0))) for axis, size in enumerate(x.shape)], outputs)
    if mode == "constant":
        flat = [number for axis in reversed(range(x.ndim)) for number in pairs.get(axis, (0, 0))]
        value = 0 if constant_value is None else constant_value.item()
        return torch.nn.functional.pad(x, flat, value=value)
    for axis, (before, after) in pairs.items():
        if before or after:
            x = x.index_select(axis, _places(mode, x.shape[axis], before, after))
    return x


def _places(mode: str, size: int, before: int, after: int) -> Tensor:
    """The elements of an axis that padding repeats."""
    places = torch.arange(-before, size + after)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places.remainder(size)
    if mode == "reflect" and before < size and after < size:
        return size - 1 - (size - 1 - places.abs()).abs()
    raise ValueError(f"the mode {mode} with {before} and {after} elements around {size}")


OPERATIONS: dict[str, Callable[..., Any]] = {
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
