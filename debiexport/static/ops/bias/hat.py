"""Position bias as two matrix products per head: it is separable in y and x.

For token row i and agent position p the table row is t = i (q-1)/(H-1) + (1-p)(q-1)/2, and likewise
for columns, so B = Y table X^T with hat weights Y (H x 2q-1) and X (W x 2q-1) of each agent. No grid of
token-agent pairs is ever made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.hat import hat, pixels
from debiexport.static.ops.positions import Positions


class HatBias(nn.Module):
    """See the module."""

    table: Tensor
    row_entries: Tensor
    column_entries: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, self.heads = geometry.stage.offset_groups, geometry.heads
        self.height, self.width = geometry.padded_size
        self.side = table.shape[-1]
        per_group = self.heads // self.groups
        self.register_buffer("table", table.reshape(1, self.groups, per_group, self.side, self.side))
        step = (self.side - 1) / 2  # q-1
        self.reach = step / 2
        # Table entry u seen from token row i: u - i (q-1)/(H-1). What is left is the agent's share, (1-p)(q-1)/2.
        entries = pixels(self.side, torch.float64)
        for name, n in (("row_entries", self.height), ("column_entries", self.width)):
            seen = entries - pixels(n, torch.float64).unsqueeze(-1) * step / (n - 1)
            self.register_buffer(name, seen.to(table.dtype))

    def forward(self, positions: Positions) -> Tensor:
        """Bias (N, M, H*W, n) of every token against every agent."""
        agents = positions.y.shape[2]
        shift_y, shift_x = (((1 - p) * self.reach).unsqueeze(-1) for p in positions)  # (N, G, n, 1, 1)
        rows = hat(shift_y, self.row_entries)  # (N, G, n, H, 2q-1)
        columns = hat(shift_x, self.column_entries)  # (N, G, n, W, 2q-1)
        rows = rows.reshape(-1, self.groups, 1, agents * self.height, self.side)
        lines = rows @ self.table  # (N, G, M/G, n*H, 2q-1)
        lines = lines.reshape(-1, self.groups, self.heads // self.groups, agents, self.height, self.side)
        bias = lines @ columns.unsqueeze(2).transpose(-2, -1)  # (N, G, M/G, n, H, W)
        return bias.reshape(-1, self.heads, agents, self.height * self.width).transpose(-2, -1)
