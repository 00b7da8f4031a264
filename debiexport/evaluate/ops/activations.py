"""Activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`min(beta, x)`, with `x` scaled by `alpha` where it is negative."""
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


def elu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x`, or `alpha * (exp(x) - 1)` where it is negative."""
    return torch.where(x >= 0, x, alpha * torch.expm1(x))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """`x` times the normal distribution function at `x`, exact or by one of two approximations."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"the mode {mode}")


def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x`, scaled by `alpha` where it is negative."""
    return torch.where(x >= 0, x, alpha * x)


def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha * x + beta`."""
    return alpha * x + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x`, scaled where it is negative by the number of its channel (axis 1)."""
    return torch.where(x >= 0, x, _by_channel(alpha, x) * x)


def relu(x: Tensor) -> Tensor:
    """`max(x, 0)`."""
    return torch.relu(x)


def relu6(x: Tensor) -> Tensor:
    """`x` kept between 0 and 6."""
    return torch.clamp(x, 0, 6)


def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha * tanh(beta * x)`."""
    return alpha * torch.tanh(beta * x)


def sigmoid(x: Tensor) -> Tensor:
    """`1 / (1 + exp(-x))`."""
    return torch.sigmoid(x)


def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha * x + beta`, kept between 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


def silu(x: Tensor) -> Tensor:
    """`x * sigmoid(x)`."""
    return F.silu(x)


def softmax(x: Tensor, axis: Tensor | None = None) -> Tensor:
    """Exponentials that add up to 1 along `axis`, the last one by default."""
    return torch.softmax(x, -1 if axis is None else int(axis))


def softplus(x: Tensor) -> Tensor:
    """`ln(1 + exp(x))`."""
    return torch.logaddexp(x, torch.zeros(()))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha * ln(1 + exp(beta * x))` with numbers of the channel (axis 1)."""
    return _by_channel(alpha, x) * softplus(_by_channel(beta, x) * x)


def softsign(x: Tensor) -> Tensor:
    """`x / (1 + |x|)`."""
    return F.softsign(x)


def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x`, or 0 where it is below `alpha`."""
    return torch.where(x >= alpha, x, torch.zeros(()))


def _by_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(1, -1, *([1] * (x.ndim - 2)))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "clamped_relu": clamped_relu,
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "prelu": prelu,
    "relu": relu,
    "relu6": relu6,
    "scaled_tanh": scaled_tanh,
    "sigmoid": sigmoid,
    "sigmoid_hard": sigmoid_hard,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softplus_parametric": softplus_parametric,
    "softsign": softsign,
    "thresholded_relu": thresholded_relu,
}
