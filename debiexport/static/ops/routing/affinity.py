"""Affinities: how much the tokens of one region look for those of another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def affinities(q: Tensor, k: Tensor, regions: int) -> Tensor:
    """Products of the regions' mean queries and mean keys, over all heads.

    Args:
        q, k: maps (N, C, H, W), whose sides S divides.
        regions: S.

    Returns:
        (N, R, R)
    """
    return region_means(q, regions).transpose(-2, -1) @ region_means(k, regions)


def region_means(x: Tensor, regions: int) -> Tensor:
    """(N, C, H, W) -> (N, C, R)"""
    size = (x.shape[-2] // regions, x.shape[-1] // regions)
    return (x if size == (1, 1) else F.avg_pool2d(x, size)).flatten(2)
