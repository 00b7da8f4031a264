"""Routing by masks: every query meets every key, and what was not routed to is pushed out of the softmax.

Uses comparisons and matrix products only: no top-k, no gather. A region is among the k best of a row if
fewer than k others are better, or equal and before it, which is counted: R x R x R comparisons.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.heads.order import by_head
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.mask import RegionMask
from debiexport.static.taps import Taps

MAX_COMPARISONS = 2**24
MAX_SCORES = 2**27
OUT_OF_REACH = -3.0e4
"""Added to the scores of keys that are not routed to: their weight is 0 in float32, and float16 holds it."""


class DenseRouting(Routing):
    """See the module."""

    exposes = (AFFINITY, ROUTES)
    before: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that ranking by counting or the dense scores would take too much memory."""
        comparisons = geometry.region_count**3
        if comparisons > MAX_COMPARISONS:
            return f"ranking {geometry.region_count} regions by counting takes {comparisons} comparisons an image"
        scores = geometry.heads * prod(geometry.query_size) * prod(geometry.padded_size)
        if scores > MAX_SCORES:
            return f"dense attention takes {scores} scores an image"
        return None

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        r = geometry.region_count
        self.queries = heads(by_head(geometry.query_size, geometry.heads), geometry.head_width)
        self.mask = RegionMask(geometry)
        # before[j, i] = 1 where region i comes before region j: among equals the earlier one wins.
        self.register_buffer("before", torch.ones(r, r).tril(-1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        name = self.geometry.name
        affinity = taps.record(f"{name}.{AFFINITY}", affinities(q, k, self.geometry.regions))
        chosen = taps.record(f"{name}.{ROUTES}", self.choose(affinity))  # (N, R, R), 1 where routed to
        scores = self.by_channel(q).transpose(-2, -1) @ self.by_channel(k) + self.mask((1 - chosen) * OUT_OF_REACH)
        return self.queries.merge(scores.softmax(-1) @ self.by_channel(v).transpose(-2, -1))

    def choose(self, affinity: Tensor) -> Tensor:
        """Affinity (N, R, R) -> 1 where a region is among the k best of its row, else 0, in the same dtype."""
        this, other = affinity.unsqueeze(-1), affinity.unsqueeze(-2)  # (N, R, j, 1), (N, R, 1, i)
        better = (other > this).to(affinity.dtype)
        earlier = (other == this).to(affinity.dtype) * self.before.to(affinity.dtype)
        return ((better + earlier).sum(-1) < self.geometry.top_k).to(affinity.dtype)
