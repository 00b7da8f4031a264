"""Activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from debiexport.evaluate.onnx.ops.arguments import axis_within

Tensor = torch.Tensor


def gelu(x: Tensor, /, *, approximate: str = "none") -> Tensor:
    """`x` times the normal distribution function at `x`, exact or by a hyperbolic tangent."""
    return F.gelu(x, approximate=approximate)


def hard_sigmoid(x: Tensor, /, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """`alpha * x + beta`, kept between 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


def hard_swish(x: Tensor, /) -> Tensor:
    """`x` times a hard sigmoid of slope 1/6."""
    return x * hard_sigmoid(x, alpha=1 / 6)


def leaky_relu(x: Tensor, /, *, alpha: float = 0.01) -> Tensor:
    """`x`, scaled by `alpha` where it is negative."""
    return torch.where(x >= 0, x, alpha * x)


def relu(x: Tensor, /) -> Tensor:
    """`max(x, 0)`."""
    return torch.relu(x)


def sigmoid(x: Tensor, /) -> Tensor:
    """`1 / (1 + exp(-x))`."""
    return torch.sigmoid(x)


def softmax(x: Tensor, /, *, axis: int = -1) -> Tensor:
    """Exponentials that add up to 1 along `axis`."""
    return torch.softmax(x, axis_within(axis, x.ndim))


def log_softmax(x: Tensor, /, *, axis: int = -1) -> Tensor:
    """The logarithm of `softmax`."""
    return torch.log_softmax(x, axis_within(axis, x.ndim))


def softplus(x: Tensor, /) -> Tensor:
    """`ln(1 + exp(x))`."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "LogSoftmax": log_softmax,
    "Relu": relu,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
    "Softplus": softplus,
}
