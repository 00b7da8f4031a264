"""Top-k by counting: comparisons and sums of floats, no index, no sorting.

The rank of a region is the number of regions that are better, or equal and before it: a region is among the k best of
its row if its rank is below k, with ties in top-k's own order. Ranks are small whole numbers, exact in float16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry

MAX_COMPARISONS = 2**24


def refusal(geometry: AttentionGeometry) -> str | None:
    """Why ranking by counting does not fit; None if it does."""
    comparisons = geometry.region_count**3
    if comparisons > MAX_COMPARISONS:
        return f"ranking {geometry.region_count} regions by counting takes {comparisons} comparisons an image"
    return None


class Ranks(nn.Module):
    """Affinity (N, R, R) -> rank of each region in its row (N, R, R), 0 the best, in the same dtype.

    Args:
        regions: R.
    """

    before: Tensor

    def __init__(self, regions: int) -> None:
        super().__init__()
        # before[j, i] = 1 where region i comes before region j: among equals the earlier one wins.
        self.register_buffer("before", torch.ones(regions, regions).tril(-1))

    def forward(self, affinity: Tensor) -> Tensor:
        this, other = affinity.unsqueeze(-1), affinity.unsqueeze(-2)  # (N, R, j, 1), (N, R, 1, i)
        better = (other > this).to(affinity.dtype)
        level = (other == this).to(affinity.dtype) * self.before.to(affinity.dtype)
        return (better + level).sum(-1)
