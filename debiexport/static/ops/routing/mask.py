"""What regions are told, said to every token of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry


class RegionMask(nn.Module):
    """Spreads numbers of pairs of regions over all pairs of tokens, in the maps' own order.

    Products with zeros and ones, so that no index is needed; exact, since every sum has one term.
    """

    rows: Tensor
    columns: Tensor
    queries: Tensor

    def __init__(self, geometry: AttentionGeometry) -> None:
        super().__init__()
        g = geometry
        self.regions = g.regions
        (self.height, self.width), (h, w) = g.padded_size, g.region_size
        self.register_buffer("rows", torch.eye(g.regions).repeat_interleave(h, 0))  # (H, S)
        self.register_buffer("columns", torch.eye(g.regions).repeat_interleave(w, 1))  # (S, W)
        hq, wq = (side // g.regions for side in g.query_size)
        self.spreads_queries = (hq, wq) != (1, 1)
        queries = torch.eye(g.region_count).reshape(g.regions, g.regions, -1)
        queries = queries.repeat_interleave(hq, 0).repeat_interleave(wq, 1).reshape(-1, g.region_count)
        self.register_buffer("queries", queries)  # (Q, R)

    def forward(self, mask: Tensor) -> Tensor:
        """(N, R, R) -> (N, 1, queries, keys)"""
        dtype = mask.dtype
        maps = mask.reshape(-1, self.regions**2, self.regions, self.regions)
        maps = (self.rows.to(dtype) @ (maps @ self.columns.to(dtype))).reshape(
            -1, self.regions**2, self.height * self.width
        )
        return (self.queries.to(dtype) @ maps if self.spreads_queries else maps).unsqueeze(1)
