"""A lowering's names resolved to implementations, with refusals that say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from debiexport.errors import UsageError
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.lowerings import Lowering
from debiexport.static.ops import bias, broadcast, heads, layout, norm, routing, sampling
from debiexport.static.weights import Weights


@dataclass(frozen=True)
class Slots:
    """Builds the implementations that a lowering names."""

    lowering: Lowering
    dtype: torch.dtype

    @property
    def layout(self) -> layout.Layout:
        return _named(layout.IMPLEMENTATIONS, "layout", self.lowering.layout)()  # type: ignore[no-any-return]

    @property
    def heads(self) -> type[heads.Heads]:
        return self._fitting(heads.IMPLEMENTATIONS, "heads", self.lowering.heads)  # type: ignore[no-any-return]

    def norm(self, channels: int, weights: Weights, eps: float = 1e-6) -> nn.Module:
        implementation = self._fitting(norm.IMPLEMENTATIONS, "norm", self.lowering.norm)
        return implementation(channels, eps, weights, self.dtype)  # type: ignore[no-any-return]

    def routing(self, geometry: AttentionGeometry) -> routing.Routing:
        """The lowering's routing; none where top-k covers every region, since there is nothing to choose."""
        if geometry.routes_everywhere:
            return routing.EVERYWHERE[self.layout.attention_format](geometry, self.heads)
        return self._serving(routing, "routing", geometry)(geometry, self.heads)  # type: ignore[no-any-return]

    def sampling(self, geometry: AttentionGeometry) -> nn.Module:
        implementation = self._serving(sampling, "sampling", geometry)
        return implementation(geometry, self.dtype, self.heads)  # type: ignore[no-any-return]

    def bias(self, geometry: AttentionGeometry, table: Tensor) -> nn.Module:
        return self._serving(bias, "bias", geometry)(geometry, table)  # type: ignore[no-any-return]

    def broadcast(self, geometry: AttentionGeometry) -> broadcast.Broadcast:
        implementation = self._serving(broadcast, "broadcast", geometry)
        given = getattr(self._serving(bias, "bias", geometry), "gives", "scores")
        if implementation.takes != given:
            raise UsageError(
                f"broadcast={self.lowering.broadcast} does not go with bias={self.lowering.bias}: the one takes"
                f" {implementation.takes}, the other gives {given}; choose both fused, or neither"
            )
        return implementation(geometry, self.heads)  # type: ignore[no-any-return]

    def _serving(self, slot: ModuleType, slot_name: str, geometry: AttentionGeometry) -> Any:
        """The implementation that the lowering names, or that its policy chooses, if it serves this geometry."""
        name, policies = getattr(self.lowering, slot_name), getattr(slot, "POLICIES", {})
        if name in policies:
            chosen = policies[name](geometry)
            return self._fitting({name: chosen}, slot_name, name)
        implementation = self._fitting({**slot.IMPLEMENTATIONS, **policies}, slot_name, name)
        reason = implementation.supports(geometry)
        if reason is not None:
            raise UsageError(
                f"{slot_name}={name} does not serve {geometry.name}: {reason};"
                f" choose {self._others(slot.IMPLEMENTATIONS, name, policies)}"
            )
        return implementation

    def _fitting(self, choices: Mapping[str, Any], slot_name: str, name: str) -> Any:
        """The implementation of a name, if it is written for the maps of the layout."""
        implementation = _named(choices, slot_name, name)
        wanted = self.layout.attention_format
        if format_of(implementation) != wanted:
            raise UsageError(
                f"{slot_name}={name} does not go with layout={self.lowering.layout}, whose maps are"
                f" {wanted.upper()}: choose another {slot_name} or layout"
            )
        return implementation

    def _others(self, implementations: Mapping[str, Any], name: str, policies: Mapping[str, Any]) -> str:
        """Names of what could be chosen instead."""
        wanted = self.layout.attention_format
        fitting = [other for other, made in implementations.items() if format_of(made) == wanted and other != name]
        return ", ".join([*fitting, *(policies if wanted == "nhwc" else ())])


def check_names(lowering: Lowering) -> None:
    """Refuse implementations that no slot has, before anything is built.

    Raises:
        UsageError: naming those that the slot has.
    """
    modules = {"routing": routing, "sampling": sampling, "bias": bias, "broadcast": broadcast, "heads": heads}
    for slot, module in {**modules, "norm": norm, "layout": layout}.items():
        _named({**module.IMPLEMENTATIONS, **getattr(module, "POLICIES", {})}, slot, getattr(lowering, slot))


def check_routing(lowering: Lowering, geometry: Geometry) -> None:
    """Refuse a routing or broadcast that does not serve every attention, before anything is built.

    Raises:
        UsageError: saying why.
    """
    slots = Slots(lowering, torch.float32)
    for attention in geometry.routed:
        if not attention.routes_everywhere:
            slots._serving(routing, "routing", attention)
        if attention.kind == "dbra":
            slots._serving(broadcast, "broadcast", attention)


def format_of(implementation: Any) -> str:
    """`nhwc` or `nchw`, of the maps that an implementation reads and gives."""
    return getattr(implementation, "format", "nhwc")


def _named(choices: Mapping[str, Any], slot: str, name: str) -> Any:
    if name not in choices:
        raise UsageError(f"no implementation {name!r} of the slot {slot}: there are {', '.join(choices)}")
    return choices[name]
