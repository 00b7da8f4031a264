"""Splitting channels into heads and back."""

from __future__ import annotations

from torch import Tensor


def split_heads(x: Tensor, heads: int, tokens: int, width: int) -> Tensor:
    """(N, L, M*d) -> (N, M, L, d); rows of d move whole."""
    return x.reshape(-1, tokens, heads, width).transpose(1, 2)


def merge_heads(x: Tensor, heads: int, tokens: int, width: int) -> Tensor:
    """(N, M, L, d) -> (N, L, M*d)"""
    return x.transpose(1, 2).reshape(-1, tokens, heads * width)
