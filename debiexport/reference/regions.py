"""Regions: S x S tiles of a channels-last map, and attention of regions to their routed regions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_regions(x: Tensor, regions: int) -> Tensor:
    """Zero-pad a map (N, H, W, C) right and bottom to multiples of `regions`."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % regions, 0, -height % regions))


def to_regions(x: Tensor, regions: int) -> Tensor:
    """(N, H, W, C) -> (N, S*S, h*w, C): tiles in row-major order, tokens inside a tile row-major."""
    n, height, width, c = x.shape
    s, h, w = regions, height // regions, width // regions
    return x.reshape(n, s, h, s, w, c).transpose(2, 3).reshape(n, s * s, h * w, c)


def from_regions(x: Tensor, regions: int, height: int, width: int) -> Tensor:
    """Inverse of `to_regions`: (N, S*S, h*w, C) -> (N, H, W, C)."""
    n, c = x.shape[0], x.shape[-1]
    s, h, w = regions, height // regions, width // regions
    return x.reshape(n, s, s, h, w, c).transpose(2, 3).reshape(n, height, width, c)


def routed_attention(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, heads: int, scale: float) -> Tensor:
    """Every token of region i attends to all tokens of the regions routes[:, i].

    Args:
        q: queries (N, R, Tq, C) in region order.
        k, v: keys and values (N, R, Tk, C) in region order.
        routes: (N, R, topk) int64.
        heads: heads, contiguous slices of C.
        scale: factor of the scores; the released code uses C^-0.5 of the whole width.

    Returns:
        (N, R, Tq, C)
    """
    n, r, tq, c = q.shape
    tk, topk, d = k.shape[2], routes.shape[-1], c // heads
    flat = (routes + r * routes.new_tensor(range(n)).view(n, 1, 1)).flatten()  # regions of the whole batch

    def gather(x: Tensor) -> Tensor:  # (N, R, Tk, C) -> (N, R, M, topk*Tk, d)
        rows = x.reshape(n * r, tk, c).index_select(0, flat)
        return rows.reshape(n, r, topk * tk, heads, d).transpose(2, 3)

    queries = q.reshape(n, r, tq, heads, d).transpose(2, 3)
    scores = (queries * scale) @ gather(k).transpose(-2, -1)
    return (scores.softmax(-1) @ gather(v)).transpose(2, 3).reshape(n, r, tq, c)
