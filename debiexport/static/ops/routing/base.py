"""What an implementation of the routing slot offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.heads import Heads
from debiexport.static.taps import Taps


class Routing(nn.Module, ABC):
    """Who attends to whom, and the attention itself; the order of tokens inside is its own affair.

    Args:
        geometry: sizes of the attention.
        heads: implementation of the heads slot.

    Attributes:
        format: of the maps that it gives, see `layout`.
        exposes: last parts of the stable names that it records.
    """

    format: ClassVar[str] = "nhwc"
    exposes: tuple[str, ...] = ()

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__()
        self.geometry = geometry

    @staticmethod
    @abstractmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or why this implementation cannot serve the geometry."""

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """Padded maps q (N, C, Hq, Wq), scaled, and k, v (N, C, H, W) -> attention, a map of the queries."""

    def by_channel(self, x: Tensor) -> Tensor:
        """A map (N, C, H, W) -> (N, M, d, H*W): channels fall into heads as they lie."""
        return x.reshape(-1, self.geometry.heads, self.geometry.head_width, x.shape[-2] * x.shape[-1])
