"""Activations as integers of a byte, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor
_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
_HOLDERS = {"int8": torch.int8, "uint8": torch.uint8}


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """`round(input / scale) + zero_point`, kept in range; ties are rounded to even. Vectors lie along `axis`."""
    low, high = _LIMITS[output_dtype]
    steps = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        steps = steps + _along(zero_point, input, axis).float()
    return steps.clamp(low, high).to(_HOLDERS[output_dtype])


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """`scale * (input - zero_point)`; vectors lie along `axis`."""
    steps = input.float()
    if zero_point is not None:
        steps = steps - _along(zero_point, input, axis).float()
    return steps * _along(scale, input, axis)


def _along(parameter: Tensor, x: Tensor, axis: Tensor | None) -> Tensor:
    if parameter.ndim == 0 or axis is None:
        return parameter
    shape = [1] * x.ndim
    shape[int(axis)] = -1
    return parameter.reshape(shape)


OPERATIONS: dict[str, Callable[..., Any]] = {"dequantize": dequantize, "quantize": quantize}
