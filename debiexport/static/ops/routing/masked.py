"""Routing by top-k and masks: every query meets every key, what was not chosen is pushed out of the softmax.

Cheaper than copying the chosen regions where queries are few, or regions are small and many are chosen.
What is pushed out comes to lie `DEPTH` below the best chosen score of its row: a weight of e^-60 is nothing
beside float64's rounding, and far above the denormal numbers that make an exponential slow.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.heads.order import by_place_in_region, by_region
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.routing.base import Routing
from debiexport.static.taps import Taps

DEPTH = 60.0
OUT_OF_REACH = 3.0e4
MAX_SCORES = 2**27


class MaskedRouting(Routing):
    """See the module."""

    exposes = (AFFINITY, ROUTES)
    mask_rows: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that the dense scores would take too much memory."""
        scores = geometry.heads * prod(geometry.query_size) * prod(geometry.padded_size)
        return f"dense attention takes {scores} scores an image" if scores > MAX_SCORES else None

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        g = geometry
        self.queries = heads(by_region(g.query_size, g.heads, g.regions), g.head_width)
        # Keys by place in their region first: a row's mask then repeats along contiguous numbers.
        self.keys = heads(by_place_in_region(g.padded_size, g.heads, g.regions), g.head_width)
        repeats = prod(g.query_size) * prod(g.region_size) // g.region_count
        self.register_buffer("mask_rows", torch.arange(g.region_count).repeat_interleave(repeats))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        g = self.geometry
        m, d, queries, keys = g.heads, g.head_width, prod(g.query_size), prod(g.padded_size)
        q, k, v = self.queries.split(q), self.keys.split(k), self.keys.split(v)  # (N, M, R, Tq, d), (N, M, Tk, R, d)

        affinity = taps.record(f"{g.name}.{AFFINITY}", affinities(q, k, keys=2))
        best, routes = affinity.topk(g.top_k, dim=-1)  # (N, R, topk) each
        taps.record(f"{g.name}.{ROUTES}", routes)
        # Products with zero have the right shape whatever the batch.
        mask = (affinity * 0 - OUT_OF_REACH).scatter(-1, routes, best * 0)
        mask = mask.index_select(1, self.mask_rows).reshape(-1, 1, queries, keys)

        q, k, v = q.reshape(-1, m, queries, d), k.reshape(-1, m, keys, d), v.reshape(-1, m, keys, d)
        masked = q @ k.transpose(-2, -1) + mask
        masked = masked.maximum((masked.amax(-1) - DEPTH).unsqueeze(-1))
        return self.queries.merge(masked.softmax(-1) @ v)
