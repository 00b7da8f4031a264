"""Attention to every region: nothing to choose, nothing to gather.

Serves full attention, and routed attention whose top-k covers all regions: softmax does not care about
the order of the keys.
"""

from __future__ import annotations

from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.heads.order import by_head
from debiexport.static.ops.routing.base import Routing
from debiexport.static.taps import Taps


class EverywhereRouting(Routing):
    """See the module."""

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None if top-k covers every region, or that it does not."""
        if geometry.routes_everywhere:
            return None
        return f"top-k {geometry.top_k} of {geometry.region_count} regions has to be chosen"

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        self.queries = heads(by_head(geometry.query_size, geometry.heads), geometry.head_width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        scores = self.by_channel(q).transpose(-2, -1) @ self.by_channel(k)
        return self.queries.merge(scores.softmax(-1) @ self.by_channel(v).transpose(-2, -1))
