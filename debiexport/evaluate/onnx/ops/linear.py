"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    /,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """`alpha * a @ b + beta * c`, `a` and `b` transposed where asked for."""
    product = (a.T if transA else a) @ (b.T if transB else b)
    product = product if alpha == 1 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


def matmul(a: Tensor, b: Tensor, /) -> Tensor:
    """`a @ b` with broadcasting."""
    return torch.matmul(a, b)


def einsum(*values: Tensor, equation: str) -> Tensor:
    """The sum of products that an equation says, such as "bij,bjk->bik"."""
    return torch.einsum(equation, *values)


OPERATIONS: dict[str, Callable[..., Any]] = {"Einsum": einsum, "Gemm": gemm, "MatMul": matmul}
