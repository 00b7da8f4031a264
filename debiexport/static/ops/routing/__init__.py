"""The routing slot: who attends to whom, and the attention itself; see `base`."""

from __future__ import annotations

from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.dense import DenseRouting
from debiexport.static.ops.routing.everywhere import EverywhereRouting
from debiexport.static.ops.routing.gather import GatherRouting

IMPLEMENTATIONS: dict[str, type[Routing]] = {"dense": DenseRouting, "gather": GatherRouting}

__all__ = ["IMPLEMENTATIONS", "DenseRouting", "EverywhereRouting", "GatherRouting", "Routing"]
