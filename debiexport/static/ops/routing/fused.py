"""Routing as one operation that reads the routed regions where they lie: nothing is copied, no window is partitioned.

Affinities and top-k are what they are elsewhere; the operation is `plugins/region_attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.plugins.region_attention.op import region_attention
from debiexport.plugins.region_attention.sizes import Sizes
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.routing.base import Routing
from debiexport.static.taps import Taps


class FusedRouting(Routing):
    """See the module."""

    exposes = (AFFINITY, ROUTES)

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or why the kernel does not cover the geometry."""
        g = geometry
        sizes = Sizes(1, g.query_size, g.padded_size, g.heads, g.head_width, g.regions, g.top_k, "fp32")
        reason: str | None = sizes.refusal
        return reason

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        g = self.geometry
        affinity = taps.record(f"{g.name}.{AFFINITY}", affinities(q, k, g.regions))
        routes = taps.record(f"{g.name}.{ROUTES}", affinity.topk(g.top_k, dim=-1).indices)  # (N, R, topk)
        q, k, v = (x.permute(0, 2, 3, 1) for x in (q, k, v))
        out: Tensor = region_attention(q, k, v, routes.to(torch.int32), g.heads, g.regions)
        return out
