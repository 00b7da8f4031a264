"""Routing by masks: every query meets every key, and what was not routed to is pushed out of the softmax.

Uses comparisons and matrix products only: no top-k, no gather, see `ranks`.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.heads.order import by_head
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.mask import RegionMask
from debiexport.static.ops.routing.ranks import Ranks, refusal
from debiexport.static.taps import Taps

MAX_SCORES = 2**27
OUT_OF_REACH = -3.0e4
"""Added to the scores of keys that are not routed to: their weight is 0 in float32, and float16 holds it."""


class DenseRouting(Routing):
    """See the module."""

    exposes = (AFFINITY, ROUTES)

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that ranking by counting or the dense scores would take too much memory."""
        scores = geometry.heads * prod(geometry.query_size) * prod(geometry.padded_size)
        too_many = f"dense attention takes {scores} scores an image" if scores > MAX_SCORES else None
        return refusal(geometry) or too_many

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        self.queries = heads(by_head(geometry.query_size, geometry.heads), geometry.head_width)
        self.mask = RegionMask(geometry)
        self.rank = Ranks(geometry.region_count)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        name = self.geometry.name
        affinity = taps.record(f"{name}.{AFFINITY}", affinities(q, k, self.geometry.regions))
        chosen = taps.record(f"{name}.{ROUTES}", self.choose(affinity))  # (N, R, R), 1 where routed to
        scores = self.by_channel(q).transpose(-2, -1) @ self.by_channel(k) + self.mask((1 - chosen) * OUT_OF_REACH)
        return self.queries.merge(scores.softmax(-1) @ self.by_channel(v).transpose(-2, -1))

    def choose(self, affinity: Tensor) -> Tensor:
        """Affinity (N, R, R) -> 1 where a region is among the k best of its row, else 0, in the same dtype."""
        chosen: Tensor = self.rank(affinity) < self.geometry.top_k
        return chosen.to(affinity.dtype)
