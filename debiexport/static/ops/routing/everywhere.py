"""Attention to every region: nothing to choose, nothing to gather.

Serves full attention, and routed attention whose top-k covers all regions: softmax does not care about
the order of the keys.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.heads import merge_heads, split_heads
from debiexport.static.taps import Taps


class EverywhereRouting(Routing):
    """See the module."""

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None if top-k covers every region, or that it does not."""
        if geometry.routes_everywhere:
            return None
        return f"top-k {geometry.top_k} of {geometry.region_count} regions has to be chosen"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        g = self.geometry
        queries, keys = prod(g.query_size), prod(g.padded_size)
        q = split_heads(q, g.heads, queries, g.head_width)
        k = split_heads(k, g.heads, keys, g.head_width)
        v = split_heads(v, g.heads, keys, g.head_width)
        out = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return merge_heads(out, g.heads, g.query_size, g.head_width)
