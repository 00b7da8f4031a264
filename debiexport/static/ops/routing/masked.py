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
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.gather import describe
from debiexport.static.ops.routing.heads import merge_regions, split_interleaved, split_regions
from debiexport.static.taps import Taps

DEPTH = 60.0
OUT_OF_REACH = 3.0e4
MAX_SCORES = 2**26


class MaskedRouting(Routing):
    """See the module."""

    exposes = (AFFINITY, ROUTES)

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that the dense scores would take too much memory."""
        scores = geometry.heads * prod(geometry.query_size) * prod(geometry.padded_size)
        return f"dense attention takes {scores} scores an image" if scores > MAX_SCORES else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        g = self.geometry
        r, m, d = g.region_count, g.heads, g.head_width
        queries, keys = (prod(size) // r for size in (g.query_size, g.padded_size))
        q = split_regions(q, m, g.query_size, g.regions, d)  # (N, M, R, Tq, d)
        # Keys by place in their region first: a row's mask then repeats along contiguous numbers.
        k, v = (split_interleaved(x, m, g.padded_size, g.regions, d) for x in (k, v))  # (N, M, Tk, R, d)

        affinity = taps.record(f"{g.name}.{AFFINITY}", describe(q) @ describe(k.transpose(2, 3)).transpose(-2, -1))
        best, routes = affinity.topk(g.top_k, dim=-1)  # (N, R, topk) each
        taps.record(f"{g.name}.{ROUTES}", routes)
        # Products with zero have the right shape whatever the batch.
        mask = (affinity * 0 - OUT_OF_REACH).scatter(-1, routes, best * 0)

        k, v = (x.reshape(-1, m, r * keys, d) for x in (k, v))
        scores = q.reshape(-1, m, r * queries, d) @ k.transpose(-2, -1)
        masked = scores.reshape(-1, m, r, queries * keys, r) + mask.unsqueeze(1).unsqueeze(3)
        masked = masked.reshape(-1, m, r * queries, r * keys)
        masked = masked.maximum(masked.amax(-1, keepdim=True) - DEPTH)
        out = masked.softmax(-1) @ v
        return merge_regions(out.reshape(-1, m, r, queries, d), m, g.query_size, g.regions, d)
