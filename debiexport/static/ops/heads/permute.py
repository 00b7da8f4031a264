"""Heads by transposing axes: the form that runtimes recognise attention in."""

from __future__ import annotations

from torch import Tensor

from debiexport.static.ops.heads.base import RowsOfHeads
from debiexport.static.ops.heads.order import Order


class PermutedHeads(RowsOfHeads):
    """See the module."""

    def __init__(self, order: Order, width: int) -> None:
        super().__init__(order, width)
        count = len(order.axes)
        self.there = (0, *(axis + 1 for axis in order.moved), count + 1)
        self.back = (0, *(order.moved.index(axis) + 1 for axis in range(count)), count + 1)

    def _reorder(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.order.axes, self.width).permute(self.there)

    def _restore(self, x: Tensor) -> Tensor:
        moved = (self.order.axes[axis] for axis in self.order.moved)
        return x.reshape(-1, *moved, self.width).permute(self.back)
