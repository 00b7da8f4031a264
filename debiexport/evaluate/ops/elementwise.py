"""Operations on each element alone: arithmetic, comparison, logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from debiexport.evaluate.ops.arguments import Outputs, epsilon_of
from debiexport.evaluate.rounding import round_to

Tensor = torch.Tensor
Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]


def _unary(function: Unary) -> Unary:
    def apply(x: Tensor) -> Tensor:
        return function(x)

    return apply


def _binary(function: Binary) -> Binary:
    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return apply


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """`x / y`; the quotient of integers loses its fraction."""
    if x.is_floating_point():
        return x / y
    return (x.double() / y.double()).trunc().to(x.dtype)


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Elements below `alpha` become `alpha`, those above `beta` become `beta`."""
    return torch.minimum(torch.maximum(x, alpha), beta)


def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """Elements below `alpha` become `alpha`."""
    return torch.maximum(x, alpha)


def inverse(x: Tensor, outputs: Outputs, epsilon: Tensor | None = None) -> Tensor:
    """`1 / (x + epsilon)`."""
    return 1 / (x + epsilon_of(epsilon, 1e-4, outputs))


def log(x: Tensor, outputs: Outputs, epsilon: Tensor | None = None) -> Tensor:
    """`ln(x + epsilon)`."""
    return torch.log(x + epsilon_of(epsilon, 1e-45, outputs))


def rsqrt(x: Tensor, outputs: Outputs, epsilon: Tensor | None = None) -> Tensor:
    """`1 / sqrt(x + epsilon)`."""
    return 1 / torch.sqrt(x + epsilon_of(epsilon, 1e-12, outputs))


def cast(x: Tensor, dtype: str, outputs: Outputs) -> Tensor:
    """The same numbers in another type; the fractions of floats that become integers are dropped."""
    declared = outputs[0].dtype
    if dtype != declared:
        raise ValueError(f"a cast to {dtype} whose result is declared {declared}")
    # Between floats there is nothing to do but to round, which is done to every result.
    return x if x.is_floating_point() and declared.startswith("fp") else round_to(x, declared)


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Elements of `a` where `cond` holds, else of `b`."""
    return torch.where(cond, a, b)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "abs": _unary(torch.abs),
    "acos": _unary(torch.acos),
    "add": _binary(torch.add),
    "asin": _unary(torch.asin),
    "atan": _unary(torch.atan),
    "atanh": _unary(torch.atanh),
    "cast": cast,
    "ceil": _unary(torch.ceil),
    "clip": clip,
    "cos": _unary(torch.cos),
    "cosh": _unary(torch.cosh),
    "equal": _binary(torch.eq),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "floor": _unary(torch.floor),
    "floor_div": _binary(torch.floor_divide),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "identity": _unary(lambda x: x),
    "inverse": inverse,
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "log": log,
    "logical_and": _binary(torch.logical_and),
    "logical_not": _unary(torch.logical_not),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "mod": _binary(torch.remainder),
    "mul": _binary(torch.mul),
    "not_equal": _binary(torch.ne),
    "pow": _binary(torch.pow),
    "real_div": real_div,
    "round": _unary(torch.round),
    "rsqrt": rsqrt,
    "select": select,
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "sinh": _unary(torch.sinh),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "sub": _binary(torch.sub),
    "tan": _unary(torch.tan),
    "tanh": _unary(torch.tanh),
    "threshold": threshold,
}
