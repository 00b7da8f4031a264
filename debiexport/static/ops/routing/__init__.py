"""The routing slot: who attends to whom, and the attention itself; see `base`.

An entry of `IMPLEMENTATIONS` is an implementation, one of `POLICIES` chooses one for each attention.
"""

from __future__ import annotations

from collections.abc import Callable

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.routing.auto import cheapest_routing
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.channels import (
    ChannelEverywhere,
    IndexedWindows,
    OneHotWindows,
    RankedRouting,
    smallest_routing,
)
from debiexport.static.ops.routing.dense import DenseRouting
from debiexport.static.ops.routing.everywhere import EverywhereRouting
from debiexport.static.ops.routing.fused import FusedRouting
from debiexport.static.ops.routing.gather import GatherRouting
from debiexport.static.ops.routing.masked import MaskedRouting

IMPLEMENTATIONS: dict[str, type[Routing]] = {
    "dense": DenseRouting,
    "fused": FusedRouting,
    "gather": GatherRouting,
    "indexed": IndexedWindows,
    "masked": MaskedRouting,
    "onehot": OneHotWindows,
    "ranked": RankedRouting,
}
EVERYWHERE: dict[str, type[Routing]] = {"nchw": ChannelEverywhere, "nhwc": EverywhereRouting}
"""Where there is nothing to choose, by the format of the maps."""

POLICIES: dict[str, Callable[[AttentionGeometry], type[Routing]]] = {
    "auto": cheapest_routing,
    "smallest": smallest_routing,
}

__all__ = [
    "EVERYWHERE",
    "IMPLEMENTATIONS",
    "POLICIES",
    "ChannelEverywhere",
    "DenseRouting",
    "EverywhereRouting",
    "FusedRouting",
    "GatherRouting",
    "IndexedWindows",
    "MaskedRouting",
    "OneHotWindows",
    "RankedRouting",
    "Routing",
]
