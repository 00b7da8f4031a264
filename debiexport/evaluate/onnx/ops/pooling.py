"""Pooling over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from debiexport.evaluate.onnx.ops.arguments import Outputs
from debiexport.evaluate.onnx.ops.windows import pad_last, windows

Tensor = torch.Tensor
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def average_pool(
    x: Tensor,
    /,
    *,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The mean of each window of `x` (N, C, ...); padding counts only if `count_include_pad`, then as zeros."""
    if dilations is not None and any(step != 1 for step in dilations):
        raise ValueError(f"the dilations {dilations}, which are not known here")
    over = windows(
        list(x.shape[2:]),
        kernel_shape,
        auto_pad=auto_pad,
        strides=strides,
        pads=pads,
        dilations=None,
        ceil_mode=ceil_mode,
    )
    average = _AVERAGE[len(kernel_shape)]
    mean = average(over.pad(x, 0.0), kernel_shape, over.strides)
    if not any(map(any, over.pairs)) and not any(over.beyond):
        return mean
    # What a ceiling adds beyond the padding is never counted.
    counted = pad_last(torch.ones(1, 1, *x.shape[2:], dtype=x.dtype), over.pairs, float(count_include_pad != 0))
    counted = pad_last(counted, [(0, more) for more in over.beyond], 0.0)
    return mean / average(counted, kernel_shape, over.strides)


def max_pool(
    x: Tensor,
    /,
    *,
    outputs: Outputs,
    kernel_shape: list[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: list[int] | None = None,
    pads: list[int] | None = None,
    storage_order: int = 0,
    strides: list[int] | None = None,
) -> Tensor:
    """The maximum of each window of `x` (N, C, ...); padding never wins."""
    if len(outputs) > 1:
        raise ValueError("indices as a second result, which are not known here")
    over = windows(
        list(x.shape[2:]),
        kernel_shape,
        auto_pad=auto_pad,
        strides=strides,
        pads=pads,
        dilations=dilations,
        ceil_mode=ceil_mode,
    )
    return _MAXIMUM[len(kernel_shape)](over.pad(x, float("-inf")), kernel_shape, over.strides, 0, over.dilations)


def global_average_pool(x: Tensor, /) -> Tensor:
    """The mean of each channel of `x` (N, C, ...), its axes kept."""
    return x.mean(list(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else x


def global_max_pool(x: Tensor, /) -> Tensor:
    """The maximum of each channel of `x` (N, C, ...), its axes kept."""
    return x.amax(list(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else x


OPERATIONS: dict[str, Callable[..., Any]] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
}
