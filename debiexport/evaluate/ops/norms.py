"""Normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from debiexport.evaluate.ops.arguments import Outputs, epsilon_of, ints

Tensor = torch.Tensor


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    outputs: Outputs,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta` with numbers of the channel (axis 1)."""
    shape = (1, -1, *([1] * (x.ndim - 2)))
    spread = torch.sqrt(variance + epsilon_of(epsilon, 1e-5, outputs))
    return _affine((x - mean.reshape(shape)) / spread.reshape(shape), gamma, beta, shape)


def instance_norm(
    x: Tensor,
    outputs: Outputs,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """Every channel of every image of `x` (N, C, ...) with mean 0 and variance 1, then scaled by channel."""
    normal = _standardised(x, list(range(2, x.ndim)), epsilon_of(epsilon, 1e-5, outputs))
    return _affine(normal, gamma, beta, (1, -1, *([1] * (x.ndim - 2))))


def layer_norm(
    x: Tensor,
    outputs: Outputs,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """`x` with mean 0 and variance 1 along `axes`, all by default, then scaled.

    Args:
        x, axes: see above.
        gamma, beta: of the shape of `axes`, in the order of `x`.
        epsilon: added to the variance.
        outputs: see `ops`.
    """
    chosen = sorted(range(x.ndim) if axes is None else (axis % x.ndim for axis in ints(axes)))
    small = epsilon_of(epsilon, 1e-5, outputs)
    if chosen == list(range(x.ndim - len(chosen), x.ndim)):
        return F.layer_norm(x, x.shape[-len(chosen) :], gamma, beta, float(small))
    shape = tuple(size if axis in chosen else 1 for axis, size in enumerate(x.shape))
    return _affine(_standardised(x, chosen, small), gamma, beta, shape)


def l2_norm(x: Tensor, outputs: Outputs, epsilon: Tensor | None = None) -> Tensor:
    """`x` over the root of the sum of squares along its last three axes."""
    squares = x.square().sum((-3, -2, -1), keepdim=True)
    return x / torch.sqrt(squares + epsilon_of(epsilon, 1e-6, outputs))


def _standardised(x: Tensor, axes: list[int], epsilon: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + epsilon)


def _affine(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
}
