"""Samples of an image at given coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor


def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    """Samples of `x` (N, C, H, W) at `coordinates` (N, H2, W2, 2), as (N, C, H2, W2).

    Args:
        x: the images.
        coordinates: across, then down.
        sampling_mode: "bilinear", or "nearest" (ties to the even pixel).
        padding_mode: what lies outside the image: "constant", "border" (the edge), "reflection" (mirrored
            without the edge) or "symmetric" (mirrored with it).
        padding_value: the constant.
        coordinates_mode: "unnormalized" counts pixels; "normalized_minus_one_to_one" and
            "normalized_zero_to_one" run from one end of the image to the other.
        align_corners: whether those ends are the centres of the outermost pixels or their edges.
    """
    height, width = x.shape[-2:]
    aligned = bool(align_corners)
    across = _pixels(coordinates[..., 0].float(), width, coordinates_mode, aligned)
    down = _pixels(coordinates[..., 1].float(), height, coordinates_mode, aligned)
    if sampling_mode == "nearest":
        return _pick(x, down.round(), across.round(), padding_mode, padding_value)
    if sampling_mode != "bilinear":
        raise ValueError(f"the sampling mode {sampling_mode}")
    top, left = down.floor(), across.floor()
    result = torch.zeros(())
    for rows, row_weight in ((top, top + 1 - down), (top + 1, down - top)):
        for columns, column_weight in ((left, left + 1 - across), (left + 1, across - left)):
            weight = (row_weight * column_weight).unsqueeze(1)
            result = result + weight * _pick(x, rows, columns, padding_mode, padding_value)
    return result


def _pixels(coordinates: Tensor, size: int, mode: str, aligned: bool) -> Tensor:
    """Coordinates as pixels: 0 is the centre of the first one."""
    if mode == "unnormalized":
        return coordinates
    if mode == "normalized_minus_one_to_one":
        unit = (coordinates + 1) / 2
    elif mode == "normalized_zero_to_one":
        unit = coordinates
    else:
        raise ValueError(f"the coordinates mode {mode}")
    return unit * (size - 1) if aligned else unit * size - 0.5


def _pick(x: Tensor, rows: Tensor, columns: Tensor, mode: str, value: Tensor) -> Tensor:
    """The pixels of `x` (N, C, H, W) at whole coordinates (N, H2, W2), some of which lie outside."""
    n, channels, height, width = x.shape
    y, x_ = _inside(rows, height, mode), _inside(columns, width, mode)
    flat = (y * width + x_).reshape(n, 1, -1).expand(-1, channels, -1)
    pixels = x.reshape(n, channels, -1).gather(2, flat).reshape(n, channels, *rows.shape[1:])
    if mode != "constant":
        return pixels
    within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(within.unsqueeze(1), pixels, value)


def _inside(places: Tensor, size: int, mode: str) -> Tensor:
    """The pixels that stand for those outside of an axis, as int64."""
    if mode in ("constant", "border"):
        # Clamped before it is whole: beyond the range of integers there is no conversion.
        return places.nan_to_num(nan=0.0).clamp(0, size - 1).to(torch.int64)
    if mode not in ("reflection", "symmetric"):
        raise ValueError(f"the padding mode {mode}")
    period = max(2 * (size - 1), 1) if mode == "reflection" else 2 * size
    folded = places.nan_to_num().remainder(period)
    mirrored = period - folded if mode == "reflection" else period - 1 - folded
    return torch.minimum(folded, mirrored).clamp(0, size - 1).to(torch.int64)


OPERATIONS: dict[str, Callable[..., Any]] = {"resample": resample}
