"""Heads by copying rows in a constant order.

Twice as fast in ONNX Runtime as a transpose, which runs on one thread there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from debiexport.static.ops.heads.base import RowsOfHeads
from debiexport.static.ops.heads.order import Order


class RowHeads(RowsOfHeads):
    """See the module."""

    there: Tensor
    back: Tensor

    def __init__(self, order: Order, width: int) -> None:
        super().__init__(order, width)
        there = torch.arange(order.rows).reshape(order.axes).permute(order.moved).flatten()
        self.moves = len(order.axes) > 1
        self.register_buffer("there", there)
        self.register_buffer("back", there.argsort())

    def _reorder(self, x: Tensor) -> Tensor:
        return self._select(x, self.there)

    def _restore(self, x: Tensor) -> Tensor:
        return self._select(x, self.back)

    def _select(self, x: Tensor, rows: Tensor) -> Tensor:
        return x.reshape(-1, self.order.rows, self.width).index_select(1, rows) if self.moves else x
