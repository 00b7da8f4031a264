"""What an implementation of the routing slot offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.taps import Taps


class Routing(nn.Module, ABC):
    """Who attends to whom, and the attention itself, in an order of tokens of its own.

    Attributes:
        exposes: last parts of the stable names that it records.
    """

    exposes: tuple[str, ...] = ()

    @staticmethod
    @abstractmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or why this implementation cannot serve the geometry."""

    @abstractmethod
    def arrange(self, x: Tensor) -> Tensor:
        """A padded map (N, H, W, C) -> tokens (N, H*W, C) in this implementation's order."""

    @abstractmethod
    def restore(self, x: Tensor) -> Tensor:
        """Tokens (N, L, C) of those who attend -> their padded map (N, H, W, C)."""

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """q (N, Lq, C), scaled; k, v (N, L, C), all in this order -> (N, Lq, C)."""
