"""Images, the last two axes, in another size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from debiexport.evaluate.ops.arguments import Outputs, bounded, ints

Tensor = torch.Tensor


def upsample_nearest_neighbor(
    x: Tensor,
    outputs: Outputs,
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
) -> Tensor:
    """Every pixel repeated; of factors that are not whole the format does not say which pixel is nearest."""
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        times = 1.0 if factor is None else float(factor)
        if times != int(times) or times < 1:
            raise ValueError(f"the factor {times:g}, which is not whole")
        bounded([x.numel(), int(times)], outputs)
        x = x.repeat_interleave(int(times), axis)
    return x


def upsample_bilinear(
    x: Tensor,
    outputs: Outputs,
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
    align_corners: Tensor | None = None,
    half_pixel_centers: Tensor | None = None,
) -> Tensor:
    """Interpolated to `floor(size * factor)` pixels; the corners are aligned by default."""
    aligned = align_corners is None or bool(align_corners)
    centred = not aligned if half_pixel_centers is None else bool(half_pixel_centers)
    if aligned and centred:
        raise ValueError("aligned corners together with half-pixel centers")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centred else "DEFAULT"
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = _interpolated(x, axis, int((1.0 if factor is None else float(factor)) * x.shape[axis]), mode, outputs)
    return x


def resize_bilinear(
    x: Tensor,
    outputs: Outputs,
    target_size_height: Tensor | None = None,
    target_size_width: Tensor | None = None,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Interpolated to a size, by default one pixel."""
    for axis, size in ((-2, target_size_height), (-1, target_size_width)):
        x = _interpolated(x, axis, 1 if size is None else int(size), sampling_mode, outputs)
    return x


def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    outputs: Outputs,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Interpolated along the last `resized_dims` axes to the last sizes of `shape`, where 0 keeps a size."""
    if interpolation_mode != "LINEAR":
        raise ValueError(f"the interpolation {interpolation_mode}, of which the format says no more")
    count = int(resized_dims)
    for axis, size in zip(range(-count, 0), ints(shape)[-count:], strict=True):
        x = _interpolated(x, axis, size or x.shape[axis], sampling_mode, outputs)
    return x


def _interpolated(x: Tensor, axis: int, size: int, mode: str, outputs: Outputs) -> Tensor:
    """Linear interpolation along one axis."""
    old = x.shape[axis]
    bounded([size], outputs)
    points = _grid(old, size, mode).clamp(0, old - 1)
    first = points.floor().to(torch.int64)
    shape = [-1] + [1] * (-axis - 1)
    weight = (points - first).reshape(shape)
    low, high = x.index_select(axis, first), x.index_select(axis, (first + 1).clamp(max=old - 1))
    return low * (1 - weight) + high * weight


def _grid(old: int, new: int, mode: str) -> Tensor:
    """Where the `new` pixels lie among the `old` ones, before they are clamped."""
    steps = torch.arange(new, dtype=torch.float32)
    if mode == "DEFAULT":
        return steps * (old / new)
    if mode == "UNALIGN_CORNERS":
        return (steps + 0.5) * (old / new) - 0.5
    if mode == "OFFSET_CORNERS":
        return (steps + 0.5) * (max(1, old - 1) / new)
    if mode == "ALIGN_CORNERS" and new == 1:
        return torch.tensor([(old - 1) / 2])
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return steps * ((old - 1) / max(new - 1, 1))
    raise ValueError(f"the sampling mode {mode}")


OPERATIONS: dict[str, Callable[..., Any]] = {
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
