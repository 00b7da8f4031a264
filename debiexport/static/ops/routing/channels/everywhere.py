"""Attention to every region: nothing to choose."""

from __future__ import annotations

from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.routing.channels.base import ChannelRouting
from debiexport.static.ops.routing.everywhere import EverywhereRouting
from debiexport.static.taps import Taps


class ChannelEverywhere(ChannelRouting):
    """See the module."""

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None if top-k covers every region, or that it does not."""
        return EverywhereRouting.supports(geometry)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        return self.attend_densely(q, k, v)
