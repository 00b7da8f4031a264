"""What an implementation of the heads slot offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.heads.order import Order
from debiexport.static.weights import Weights


class Heads(nn.Module, ABC):
    """A map's channels split into heads, its tokens put in an order, and back.

    Args:
        order: of the rows.
        width: d, numbers of a row; a map has M*d channels.
    """

    format: ClassVar[str] = "nhwc"

    def __init__(self, order: Order, width: int) -> None:
        super().__init__()
        self.order, self.width = order, width

    @staticmethod
    def arrange(weights: Weights, geometry: AttentionGeometry) -> Weights:
        """Weights of an attention whose queries, keys and values have their channels in the order wanted here."""
        return weights

    @abstractmethod
    def split(self, x: Tensor) -> Tensor:
        """A map -> its heads."""

    @abstractmethod
    def merge(self, x: Tensor) -> Tensor:
        """Heads -> a map."""


class RowsOfHeads(Heads):
    """Heads of maps (N, H, W, M*d), whose rows of d numbers move whole."""

    def split(self, x: Tensor) -> Tensor:
        """A map (N, H, W, M*d) -> (N, *lead, d)."""
        return self._reorder(x).reshape(-1, *self.order.lead, self.width)

    def merge(self, x: Tensor) -> Tensor:
        """(N, *lead, d) -> a map (N, H, W, M*d)."""
        return self._restore(x).reshape(-1, *self.order.size, self.order.heads * self.width)

    @abstractmethod
    def _reorder(self, x: Tensor) -> Tensor:
        """Rows from the map's order, in any shape, to the new one."""

    @abstractmethod
    def _restore(self, x: Tensor) -> Tensor:
        """Rows from the new order, in any shape, to the map's."""
