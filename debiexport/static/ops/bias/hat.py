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


class HatBias(nn.Module):
    """See the module."""

    table: Tensor
    entries: Tensor
    row_steps: Tensor
    column_steps: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or why this implementation cannot serve the geometry."""
        return None

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, self.heads = geometry.stage.offset_groups, geometry.heads
        self.height, self.width = geometry.padded_size
        self.side = table.shape[-1]
        self.reach = (self.side - 1) / 4  # (q-1)/2
        per_group = self.heads // self.groups
        self.register_buffer("table", table.reshape(1, self.groups, per_group, self.side, self.side))
        self.register_buffer("entries", pixels(self.side, table.dtype))
        half = (self.side - 1) / 2  # q-1
        for name, n in (("row_steps", self.height), ("column_steps", self.width)):
            steps = torch.arange(n, dtype=torch.float64) * half / (n - 1)
            self.register_buffer(name, steps.to(table.dtype))

    def forward(self, positions: Tensor) -> Tensor:
        """positions (N, G, n, 2), (y, x) in [-1, 1] -> bias (N, M, H*W, n)."""
        agents = positions.shape[2]
        shift = (1 - positions) * self.reach
        rows = hat(shift[..., :1] + self.row_steps, self.entries)  # (N, G, n, H, 2q-1)
        columns = hat(shift[..., 1:] + self.column_steps, self.entries)  # (N, G, n, W, 2q-1)
        rows = rows.reshape(-1, self.groups, 1, agents * self.height, self.side)
        lines = rows @ self.table  # (N, G, M/G, n*H, 2q-1)
        lines = lines.reshape(-1, self.groups, self.heads // self.groups, agents, self.height, self.side)
        bias = lines @ columns.unsqueeze(2).transpose(-2, -1)  # (N, G, M/G, n, H, W)
        return bias.reshape(-1, self.heads, agents, self.height * self.width).transpose(-2, -1)
