"""A lowering's names resolved to implementations, with refusals that say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from debiexport.errors import UsageError
from debiexport.geometry import AttentionGeometry
from debiexport.lowerings import Lowering
from debiexport.static.ops import bias, heads, layout, norm, routing, sampling
from debiexport.static.ops.layout.nchw import NCHWLayout
from debiexport.static.weights import Weights


@dataclass(frozen=True)
class Slots:
    """Builds the implementations that a lowering names."""

    lowering: Lowering
    dtype: torch.dtype

    @property
    def layout(self) -> NCHWLayout:
        return _named(layout.IMPLEMENTATIONS, "layout", self.lowering.layout)()  # type: ignore[no-any-return]

    @property
    def heads(self) -> type[heads.Heads]:
        return _named(heads.IMPLEMENTATIONS, "heads", self.lowering.heads)  # type: ignore[no-any-return]

    def norm(self, channels: int, weights: Weights, eps: float = 1e-6) -> nn.Module:
        implementation = _named(norm.IMPLEMENTATIONS, "norm", self.lowering.norm)
        return implementation(channels, eps, weights, self.dtype)  # type: ignore[no-any-return]

    def routing(self, geometry: AttentionGeometry) -> routing.Routing:
        """The lowering's routing; none where top-k covers every region, since there is nothing to choose."""
        if geometry.routes_everywhere:
            return routing.EverywhereRouting(geometry, self.heads)
        return self._serving(routing, "routing", geometry)(geometry, self.heads)  # type: ignore[no-any-return]

    def sampling(self, geometry: AttentionGeometry) -> nn.Module:
        implementation = self._serving(sampling, "sampling", geometry)
        return implementation(geometry, self.dtype, self.heads)  # type: ignore[no-any-return]

    def bias(self, geometry: AttentionGeometry, table: Tensor) -> nn.Module:
        return self._serving(bias, "bias", geometry)(geometry, table)  # type: ignore[no-any-return]

    def _serving(self, slot: ModuleType, slot_name: str, geometry: AttentionGeometry) -> Any:
        """The implementation that the lowering names, or that its policy chooses, if it serves this geometry."""
        name, policies = getattr(self.lowering, slot_name), getattr(slot, "POLICIES", {})
        if name in policies:
            return policies[name](geometry)
        implementation = _named({**slot.IMPLEMENTATIONS, **policies}, slot_name, name)
        reason = implementation.supports(geometry)
        if reason is not None:
            others = ", ".join(n for n in (*slot.IMPLEMENTATIONS, *policies) if n != name)
            raise UsageError(f"{slot_name}={name} does not serve {geometry.name}: {reason}; choose {others}")
        return implementation


def _named(choices: Mapping[str, Any], slot: str, name: str) -> Any:
    if name not in choices:
        raise UsageError(f"no implementation {name!r} of the slot {slot}: there are {', '.join(choices)}")
    return choices[name]
