"""Routing by top-k and masks: every query meets every key, what was not chosen is pushed out of the softmax.

Cheaper than copying the chosen regions where queries are few, or regions are small and many are chosen.
What is pushed out comes to lie `DEPTH` below the best chosen score of its row: a weight of e^-60 is nothing
beside float64's rounding, and far above the denormal numbers that make an exponential slow.
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
from debiexport.static.taps import Taps

DEPTH = 60.0
OUT_OF_REACH = 3.0e4
MAX_SCORES = 2**27


class MaskedRouting(Routing):
    """See the module."""

    exposes = (AFFINITY, ROUTES)

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that the dense scores would take too much memory."""
        scores = geometry.heads * prod(geometry.query_size) * prod(geometry.padded_size)
        return f"dense attention takes {scores} scores an image" if scores > MAX_SCORES else None

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        self.queries = heads(by_head(geometry.query_size, geometry.heads), geometry.head_width)
        self.mask = RegionMask(geometry)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        g = self.geometry
        affinity = taps.record(f"{g.name}.{AFFINITY}", affinities(q, k, g.regions))
        best, routes = affinity.topk(g.top_k, dim=-1)  # (N, R, topk) each
        taps.record(f"{g.name}.{ROUTES}", routes)
        # Products with zero have the right shape whatever the batch.
        mask = self.mask((affinity * 0 - OUT_OF_REACH).scatter(-1, routes, best * 0))
        masked = self.by_channel(q).transpose(-2, -1) @ self.by_channel(k) + mask  # (N, M, queries, keys)
        masked = masked.maximum((masked.amax(-1) - DEPTH).unsqueeze(-1))
        return self.queries.merge(masked.softmax(-1) @ self.by_channel(v).transpose(-2, -1))
