"""Convolutions over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from debiexport.evaluate.ops.arguments import Outputs, spatial_ints
from debiexport.evaluate.ops.padding import pad_spatially, window_padding

Tensor = torch.Tensor
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """The convolution of `x` (N, C, ...) with `weight` (out, C / groups, ...)."""
    spatial = x.ndim - 2
    steps, spread = spatial_ints(strides, spatial, 1), spatial_ints(dilations, spatial, 1)
    kernel = [(width - 1) * dilation + 1 for width, dilation in zip(weight.shape[2:], spread, strict=True)]
    pairs = window_padding(pad_type, pad, list(x.shape[2:]), kernel, steps)
    around = [before for before, after in pairs if before == after]
    if len(around) != spatial:  # torch pads both sides alike
        x, around = pad_spatially(x, pairs, 0.0), [0] * spatial
    return _CONV[spatial](x, weight, bias, steps, around, spread, 1 if groups is None else int(groups))


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    outputs: Outputs,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """The transposed convolution of `x` (N, C, ...) with `weight` (C, out / groups, ...).

    Every element of `x` adds the kernel, scaled, to the result; the padding is what is then cut off. Where the
    shape of the result is given, as many zeros are added at the end as it lacks.
    """
    spatial = x.ndim - 2
    steps, spread = spatial_ints(strides, spatial, 1), spatial_ints(dilations, spatial, 1)
    count = 1 if groups is None else int(groups)
    whole = _TRANSPOSED[spatial](x, weight, None, steps, 0, 0, count, spread)
    if pad_type == "same":
        totals = [size - wanted for size, wanted in zip(whole.shape[2:], outputs[0].shape[2:], strict=True)]
        pairs = [(max(total, 0) // 2, total - max(total, 0) // 2) for total in totals]
    else:
        pairs = window_padding(pad_type, pad, list(x.shape[2:]), list(weight.shape[2:]), steps)
    if output_shape is not None:
        sizes = zip(pairs, whole.shape[2:], outputs[0].shape[2:], strict=True)
        pairs = [(before, size - before - wanted) for (before, _), size, wanted in sizes]
    result = pad_spatially(whole, [(-before, -after) for before, after in pairs], 0.0)
    return result if bias is None else result + bias.reshape(1, -1, *([1] * spatial))


OPERATIONS: dict[str, Callable[..., Any]] = {"conv": conv, "conv_transpose": conv_transpose}
