"""What a run of a network is told and what it tells: routes forced on it, tensors recorded from it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from debiexport.names import AFFINITY, ROUTES


class Trace:
    """Carried through one forward pass.

    Args:
        forced: routes (N, R, k) int64 by the stable name of an attention; where a name is present
            its routes replace the network's own choice.
        keep: whether to record anything; a bare forward pass keeps nothing alive.
        stream: whether to record the residual stream as well as the routing.
    """

    def __init__(self, forced: Mapping[str, Tensor] | None = None, *, keep: bool = False, stream: bool = False) -> None:
        self.forced = dict(forced or {})
        self.keep = keep
        self.stream = stream
        self.tensors: dict[str, Tensor] = {}

    def choose(self, name: str, affinity: Tensor, k: int) -> Tensor:
        """Routes (N, R, k) of one attention: the forced ones, or the top-k of its affinity (N, R, R)."""
        routes = self.forced.get(name)
        if routes is None:
            routes = affinity.topk(k, dim=-1).indices
        if self.keep:
            self.tensors[f"{name}.{AFFINITY}"] = affinity
            self.tensors[f"{name}.{ROUTES}"] = routes
        return routes

    def record(self, name: str, stream: Tensor) -> Tensor:
        """Record a place of the residual stream and hand it back."""
        if self.stream:
            self.tensors[name] = stream
        return stream
