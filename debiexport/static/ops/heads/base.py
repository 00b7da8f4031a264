"""What an implementation of the heads slot offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from debiexport.static.ops.heads.order import Order


class Heads(nn.Module, ABC):
    """A map's channels split into heads, its tokens put in an order, and back.

    Args:
        order: of the rows.
        width: d, numbers of a row; a map has M*d channels.
    """

    def __init__(self, order: Order, width: int) -> None:
        super().__init__()
        self.order, self.width = order, width

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
