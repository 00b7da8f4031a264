"""Elements moved between channels and pixels of a tensor (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from debiexport.evaluate.ops.arguments import ints

Tensor = torch.Tensor


def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    """(N, C f f, H, W) -> (N, C, H f, W f); of the channels of a result, its place in the block runs fastest."""
    return F.pixel_shuffle(x, int(upscale_factor))


def pixel_unshuffle(x: Tensor, downscale_factor: Tensor) -> Tensor:
    """(N, C, H f, W f) -> (N, C f f, H, W); undoes `pixel_shuffle`."""
    return F.pixel_unshuffle(x, int(downscale_factor))


def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """(N, f f C, H, W) -> (N, C, H f, W f); the channel runs fastest, as TensorFlow's operation has it."""
    n, channels, height, width = x.shape
    f = int(block_size)
    blocks = x.reshape(n, f, f, channels // f**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, channels // f**2, height * f, width * f)


def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    """(N, C, H f, W f) -> (N, f f C, H, W); undoes `depth_to_space`."""
    n, channels, height, width = x.shape
    f = int(block_size)
    blocks = x.reshape(n, channels, height // f, f, width // f, f).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, channels * f**2, height // f, width // f)


def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    """`x` without as many rows at the top and the bottom, and columns at the left and the right."""
    (top, bottom), (left, right) = ints(crop_height), ints(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "crop": crop,
    "depth_to_space": depth_to_space,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "space_to_depth": space_to_depth,
}
