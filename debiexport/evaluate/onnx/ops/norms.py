"""Normalisations. Means and variances are computed wide, as are the results until they are rounded at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import axis_within

Tensor = torch.Tensor
_FLOAT = 1  # the number of float32 in the file format


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    /,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = _FLOAT,
) -> tuple[Tensor, Tensor, Tensor]:
    """`x` with mean 0 and variance 1 along the axes from `axis` on, then scaled; the mean; 1 / the deviation.

    Raises:
        ValueError: the statistics are declared to be of another type than float32.
    """
    if stash_type != _FLOAT:
        raise ValueError(f"statistics of type {stash_type}, known is float32")
    axes = list(range(axis_within(axis, x.ndim), x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    inverse = 1 / torch.sqrt(variance + epsilon)
    normal = (x - mean) * inverse * scale
    return normal if bias is None else normal + bias, mean, inverse


def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, /, *, epsilon: float = 1e-5) -> Tensor:
    """Every channel of every image of `x` (N, C, ...) with mean 0 and variance 1, then scaled by channel."""
    variance, mean = torch.var_mean(x, list(range(2, x.ndim)), correction=0, keepdim=True)
    shape = (1, -1, *([1] * (x.ndim - 2)))
    return (x - mean) / torch.sqrt(variance + epsilon) * scale.reshape(shape) + bias.reshape(shape)


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    /,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` with numbers of the channel (axis 1).

    Raises:
        ValueError: the operation is that of training.
    """
    if training_mode:
        raise ValueError("the mode of training, which is not known here")
    shape = (1, -1, *([1] * (x.ndim - 2)))
    spread = torch.sqrt(variance + epsilon).reshape(shape)
    return (x - mean.reshape(shape)) / spread * scale.reshape(shape) + bias.reshape(shape)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
}
