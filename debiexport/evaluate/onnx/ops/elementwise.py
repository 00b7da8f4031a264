"""Operations on each element alone: arithmetic, comparison, logic."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import Outputs
from debiexport.evaluate.onnx.types import rounded

Tensor = torch.Tensor
Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]


def _unary(function: Unary) -> Unary:
    def apply(x: Tensor, /) -> Tensor:
        return function(x)

    return apply


def _binary(function: Binary) -> Binary:
    def apply(x: Tensor, y: Tensor, /) -> Tensor:
        return function(x, y)

    return apply


def _variadic(function: Binary) -> Callable[..., Tensor]:
    """An operation on any number of tensors, two by two."""

    def apply(first: Tensor, /, *others: Tensor) -> Tensor:
        return reduce(function, others, first)

    return apply


def cast(x: Tensor, /, *, outputs: Outputs, to: int, saturate: int = 1) -> Tensor:
    """The same numbers in another type; the fractions of floats that become integers are dropped.

    Args:
        x: of any type.
        outputs: see `ops`; what `to` names is what inference declares.
        to: the type's number.
        saturate: of no meaning but for floats of 8 bits.
    """
    declared = outputs[0]
    if declared is None:
        raise ValueError("no result")
    # Between floats there is nothing to do but to round, which is done to every result.
    return x if x.is_floating_point() and declared.is_float else rounded(x, declared.dtype)


def cast_like(x: Tensor, like: Tensor, /, *, outputs: Outputs, saturate: int = 1) -> Tensor:
    """The same numbers in the type of `like`; see `cast`."""
    return cast(x, outputs=outputs, to=0, saturate=saturate)


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None, /) -> Tensor:
    """Elements below `low` become `low`, then those above `high` become `high`."""
    if low is not None:
        x = torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def div(x: Tensor, y: Tensor, /) -> Tensor:
    """`x / y`; the quotient of integers loses its fraction."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def isinf(x: Tensor, /, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Whether an element is infinite, of the signs that are asked for."""
    return torch.isposinf(x) & bool(detect_positive) | torch.isneginf(x) & bool(detect_negative)


def mod(x: Tensor, y: Tensor, /, *, fmod: int = 0) -> Tensor:
    """The rest of a division: with the sign of `y`, or with that of `x` if `fmod`."""
    if fmod:
        return torch.fmod(x, y)
    if x.is_floating_point():
        raise ValueError("floating-point numbers, for which fmod has to be 1")
    return torch.remainder(x, y)


def pow_(x: Tensor, y: Tensor, /) -> Tensor:
    """`x` to the power of `y`, in the type of `x`."""
    if x.is_floating_point():
        return torch.pow(x, y)
    return torch.pow(x, y) if not y.is_floating_point() else torch.pow(x.double(), y.double()).to(x.dtype)


def where(condition: Tensor, x: Tensor, y: Tensor, /) -> Tensor:
    """Elements of `x` where the condition holds, else of `y`."""
    return torch.where(condition, x, y)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Cast": cast,
    "CastLike": cast_like,
    "Ceil": _unary(torch.ceil),
    "Clip": clip,
    "Cos": _unary(torch.cos),
    "Div": div,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Identity": _unary(lambda x: x),
    "IsInf": isinf,
    "IsNaN": _unary(torch.isnan),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mod": mod,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pow": pow_,
    "Reciprocal": _unary(torch.reciprocal),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tanh": _unary(torch.tanh),
    "Where": where,
    "Xor": _binary(torch.logical_xor),
}
