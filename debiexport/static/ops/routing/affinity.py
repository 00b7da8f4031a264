"""Affinities: how much the tokens of one region look for those of another."""

from __future__ import annotations

from torch import Tensor


def affinities(q: Tensor, k: Tensor, queries: int = 3, keys: int = 3) -> Tensor:
    """Products of the regions' mean queries and mean keys, over all heads -> (N, R, R).

    Args:
        q: (N, M, R, Tq, d), or with R and Tq exchanged.
        k: (N, M, R, Tk, d), or with R and Tk exchanged.
        queries: axis of Tq.
        keys: axis of Tk.
    """
    heads = mean(q, queries) @ mean(k, keys).transpose(-2, -1)  # (N, M, R, R)
    return heads.sum(1)


def mean(x: Tensor, axis: int) -> Tensor:
    """Mean over an axis, which may hold one number."""
    return x.mean(axis) if x.shape[axis] > 1 else x.squeeze(axis)
