"""The routing slot: who attends to whom, and the attention itself.

An implementation chooses the order of tokens that suits it: `arrange` puts a map into that order, the
projections act on it, and `restore` undoes it.
"""

from __future__ import annotations

from debiexport.static.ops.routing.everywhere import EverywhereRouting
from debiexport.static.ops.routing.gather import GatherRouting

IMPLEMENTATIONS = {"gather": GatherRouting}

__all__ = ["IMPLEMENTATIONS", "EverywhereRouting", "GatherRouting"]
