"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, for a weight (out, in)."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None) -> Tensor:
    """`x @ y` with broadcasting; a transposition is of the last two axes, and none of a vector."""
    if transpose_x is not None and bool(transpose_x) and x.ndim > 1:
        x = x.transpose(-1, -2)
    if transpose_y is not None and bool(transpose_y) and y.ndim > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    """The product (.., C, H, W1) x (.., W1, H, W2) -> (.., C, H, W2), however its axes are lettered."""
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = list(dict.fromkeys(terms.replace(",", "")))  # in the order in which they are met
    plain = equation.replace(" ", "").translate({ord(letter): chr(ord("a") + i) for i, letter in enumerate(letters)})
    if plain not in ("abcd,adce->abce", "abc,cbd->abd") or not result:
        raise ValueError(f"the equation {equation}")
    return torch.einsum(plain, *values)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """`softmax(query @ key.T / sqrt(E) + mask) @ value`; a mask of booleans says which keys take part."""
    scores = query @ key.transpose(-1, -2) / sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


OPERATIONS: dict[str, Callable[..., Any]] = {
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
