"""Routing by copying whole regions: one index select of contiguous rows.

Regions of all images and heads lie on one axis (N*M*R), so the routes become row numbers and the copy
moves rows of (tokens x head width) numbers. `torch.gather` with an index expanded over tokens and
channels, as in the released code, needs one index per number instead.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.heads.order import by_region
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.routing.base import Routing
from debiexport.static.taps import Taps


class GatherRouting(Routing):
    """See the module."""

    exposes = (AFFINITY, ROUTES)
    head_rows: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        g = geometry
        self.queries = heads(by_region(g.query_size, g.heads, g.regions), g.head_width)
        self.keys = heads(by_region(g.padded_size, g.heads, g.regions), g.head_width)
        self.register_buffer("head_rows", (torch.arange(g.heads) * g.region_count).view(1, g.heads, 1, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        g = self.geometry
        r, m, d, topk = g.region_count, g.heads, g.head_width, g.top_k
        keys = prod(g.region_size)
        affinity = taps.record(f"{g.name}.{AFFINITY}", affinities(q, k, g.regions))
        q, k, v = (x.permute(0, 2, 3, 1) for x in (q, k, v))
        q, k, v = self.queries.split(q), self.keys.split(k), self.keys.split(v)  # (N, M, R, T, d)

        routes = taps.record(f"{g.name}.{ROUTES}", affinity.topk(topk, dim=-1).indices)  # (N, R, topk)

        images = torch.arange(q.shape[0], device=q.device) * (m * r)
        rows = (routes.unsqueeze(1) + self.head_rows + images.view(-1, 1, 1, 1)).flatten()

        def gather(x: Tensor) -> Tensor:  # (N, M, R, Tk, d) -> (N, M, R, topk*Tk, d)
            return x.reshape(-1, keys * d).index_select(0, rows).reshape(-1, m, r, topk * keys, d)

        out = (q @ gather(k).transpose(-2, -1)).softmax(-1) @ gather(v)
        return self.queries.merge(out)
