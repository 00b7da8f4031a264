"""A lowering's names resolved to implementations, with refusals that say why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from debiexport.errors import UsageError
from debiexport.geometry import AttentionGeometry
from debiexport.lowerings import Lowering
from debiexport.static.ops import bias, layout, norm, routing, sampling
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

    def norm(self, channels: int, weights: Weights, eps: float = 1e-6) -> nn.Module:
        implementation = _named(norm.IMPLEMENTATIONS, "norm", self.lowering.norm)
        return implementation(channels, eps, weights, self.dtype)  # type: ignore[no-any-return]

    def routing(self, geometry: AttentionGeometry) -> routing.Routing:
        """The lowering's routing; none where top-k covers every region, since there is nothing to choose."""
        if geometry.routes_everywhere:
            return routing.EverywhereRouting(geometry)
        return self._supported(routing.IMPLEMENTATIONS, "routing", self.lowering.routing, geometry)(geometry)  # type: ignore[no-any-return]

    def sampling(self, geometry: AttentionGeometry) -> nn.Module:
        cls = self._supported(sampling.IMPLEMENTATIONS, "sampling", self.lowering.sampling, geometry)
        return cls(geometry, self.dtype)  # type: ignore[no-any-return]

    def bias(self, geometry: AttentionGeometry, table: Tensor) -> nn.Module:
        cls = self._supported(bias.IMPLEMENTATIONS, "bias", self.lowering.bias, geometry)
        return cls(geometry, table)  # type: ignore[no-any-return]

    def _supported(self, choices: dict[str, Any], slot: str, name: str, geometry: AttentionGeometry) -> Any:
        implementation = _named(choices, slot, name)
        reason = implementation.supports(geometry)
        if reason is not None:
            raise UsageError(
                f"{slot}={name} does not serve {geometry.name}: {reason}; choose another of {', '.join(choices)}"
            )
        return implementation


def _named(choices: dict[str, Any], slot: str, name: str) -> Any:
    if name not in choices:
        raise UsageError(f"no implementation {name!r} of the slot {slot}: there are {', '.join(choices)}")
    return choices[name]
