"""Routing of maps (N, C, H, W) with heads innermost in their channels, see `heads.interleaved`."""

from __future__ import annotations

from debiexport.static.ops.routing.channels.auto import smallest_routing
from debiexport.static.ops.routing.channels.everywhere import ChannelEverywhere
from debiexport.static.ops.routing.channels.ranked import RankedRouting
from debiexport.static.ops.routing.channels.windows import IndexedWindows, OneHotWindows

__all__ = ["ChannelEverywhere", "IndexedWindows", "OneHotWindows", "RankedRouting", "smallest_routing"]
