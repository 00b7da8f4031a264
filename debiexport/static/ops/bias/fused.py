"""Position bias that nobody computes here: its table and the positions are handed to the fused broadcast."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.positions import Positions


class TableAtPositions(NamedTuple):
    """What a position bias is made of.

    Attributes:
        positions: (N, G, n, 2), see `Positions`.
        table: (M, 2q-1, 2q-1).
    """

    positions: Positions
    table: Tensor


class FusedBias(nn.Module):
    """See the module."""

    gives = "table"
    table: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, positions: Positions) -> TableAtPositions:
        return TableAtPositions(positions, self.table)
