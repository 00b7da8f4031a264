"""The routing whose largest tensor is the smallest, attention by attention, without any index.

The Neural Engine computes faster than it fetches, and keeps about 2^20 float16 numbers close by.
"""

from __future__ import annotations

from debiexport.errors import UsageError
from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.channels.ranked import RankedRouting, dense_scores
from debiexport.static.ops.routing.channels.windows import OneHotWindows, window_numbers


def smallest_routing(geometry: AttentionGeometry) -> type[Routing]:
    """`RankedRouting` where all scores together are no more than what the windows take, else `OneHotWindows`.

    Raises:
        UsageError: there are too many regions to rank them by counting.
    """
    reason = OneHotWindows.supports(geometry)
    if reason is not None:
        raise UsageError(f"routing without indices does not serve {geometry.name}: {reason}; give --lowering gather")
    dense = RankedRouting.supports(geometry) is None and dense_scores(geometry) <= window_numbers(geometry)
    return RankedRouting if dense else OneHotWindows
