"""Routing by masks: every query meets every key, and what was not routed to is pushed out of the softmax."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.routing.channels.base import ChannelRouting
from debiexport.static.ops.routing.ranks import Ranks, refusal
from debiexport.static.taps import Taps

MAX_SCORES = 2**26
OUT_OF_REACH = -4.0e4
"""Added to the scores of keys that are not routed to. Infinity is no number that every processor adds."""


class RankedRouting(ChannelRouting):
    """See the module."""

    exposes = (AFFINITY, ROUTES)
    spread_keys: Tensor
    spread_queries: Tensor | None

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that ranking by counting or the dense scores would take too much memory."""
        scores = dense_scores(geometry)
        if scores > MAX_SCORES:
            return f"dense attention takes {scores} scores an image"
        return refusal(geometry)

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        self.rank = Ranks(geometry.region_count)
        keys = region_of_tokens(geometry.padded_size, geometry.regions)
        queries = region_of_tokens(geometry.query_size, geometry.regions)
        self.register_buffer("spread_keys", keys)  # (K, R)
        # Where a region has one query, it is the region.
        one_each = len(queries) == geometry.region_count
        self.register_buffer("spread_queries", None if one_each else queries.T.contiguous())  # (R, Q)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        name = self.geometry.name
        affinity = taps.record(f"{name}.{AFFINITY}", affinities(q, k, self.geometry.regions))
        chosen = (self.rank(affinity) < self.geometry.top_k).to(affinity.dtype)
        chosen = taps.record(f"{name}.{ROUTES}", chosen)  # (N, R, R), 1 where routed to
        return self.attend_densely(q, k, v, self.mask((1 - chosen) * OUT_OF_REACH))

    def mask(self, regions: Tensor) -> Tensor:
        """(N, R, R) of queries' and keys' regions -> (N, K, 1, Q); exact, since every sum has one term."""
        dtype = regions.dtype
        mask = self.spread_keys.to(dtype) @ regions.transpose(-2, -1)  # (N, K, R)
        if self.spread_queries is not None:
            mask = mask @ self.spread_queries.to(dtype)
        return mask.unsqueeze(2)


def dense_scores(geometry: AttentionGeometry) -> int:
    """Scores of one image where every query meets every key."""
    return geometry.heads * prod(geometry.query_size) * prod(geometry.padded_size)


def region_of_tokens(size: tuple[int, int], regions: int) -> Tensor:
    """(H*W, R): 1 at the region in which a token of a map lies."""
    rows = torch.arange(size[0]) // (size[0] // regions)
    columns = torch.arange(size[1]) // (size[1] // regions)
    index = rows.unsqueeze(1) * regions + columns
    return torch.eye(regions**2)[index.flatten()]
