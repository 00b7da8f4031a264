"""Pooling over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from debiexport.evaluate.ops.arguments import ints, spatial_ints
from debiexport.evaluate.ops.padding import Pairs, pad_spatially, window_padding

Tensor = torch.Tensor
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    """The maximum of each window of `x` (N, C, ...); padding never wins."""
    kernel, steps, pairs, beyond = _windows(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    padded = pad_spatially(pad_spatially(x, pairs, float("-inf")), beyond, float("-inf"))
    return _MAXIMUM[x.ndim - 2](padded, kernel, steps)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
    exclude_padding_from_average: Tensor | None = None,
) -> Tensor:
    """The mean of each window of `x` (N, C, ...); padding counts as zeros unless it is excluded."""
    kernel, steps, pairs, beyond = _windows(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    average = _AVERAGE[x.ndim - 2]
    mean = average(pad_spatially(pad_spatially(x, pairs, 0.0), beyond, 0.0), kernel, steps)
    if not any(map(any, (*pairs, *beyond))):
        return mean
    exclude = exclude_padding_from_average is not None and bool(exclude_padding_from_average)
    # What a ceiling adds beyond the padding is never counted.
    counted = pad_spatially(torch.ones(1, 1, *x.shape[2:]), pairs, 0.0 if exclude else 1.0)
    return mean / average(pad_spatially(counted, beyond, 0.0), kernel, steps)


def _windows(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None,
    pad: Tensor | None,
    ceil_mode: Tensor | None,
) -> tuple[list[int], list[int], Pairs, Pairs]:
    """Kernel, strides, padding, and what a ceiling of the number of windows adds at the end."""
    spatial, kernel = x.ndim - 2, ints(kernel_sizes)
    steps = spatial_ints(strides, spatial, 1)
    pairs = window_padding(pad_type, pad, list(x.shape[2:]), kernel, steps)
    if ceil_mode is None or not bool(ceil_mode):
        return kernel, steps, pairs, [(0, 0)] * spatial
    beyond = []
    for size, width, step, (before, after) in zip(x.shape[2:], kernel, steps, pairs, strict=True):
        padded = size + before + after
        count = -(-(padded - width) // step) + 1
        if before + after > 0 and (count - 1) * step >= size + before:  # a window of padding alone
            count -= 1
        beyond.append((0, max(0, (count - 1) * step + width - padded)))
    return kernel, steps, pairs, beyond


OPERATIONS: dict[str, Callable[..., Any]] = {"avg_pool": avg_pool, "max_pool": max_pool}
