"""Position bias with the GridSample operation of a target: a grid of every token against every agent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.positions import Positions


class GridBias(nn.Module):
    """See the module."""

    table: Tensor
    places: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, self.heads = geometry.stage.offset_groups, geometry.heads
        height, width = geometry.padded_size
        self.tokens = height * width
        self.register_buffer("table", table.reshape(1, self.groups, -1, *table.shape[1:]))
        y = torch.arange(height, dtype=torch.float64) / (height - 1) * 2 - 1
        x = torch.arange(width, dtype=torch.float64) / (width - 1) * 2 - 1
        y, x = torch.meshgrid(y, x, indexing="ij")
        self.register_buffer("places", torch.stack((x, y), -1).reshape(1, 1, -1, 1, 2).to(table.dtype))

    def forward(self, positions: Positions) -> Tensor:
        """Bias (N, M, H*W, n) of every token against every agent."""
        batch, agents = positions.shape[0], positions.shape[2]
        grid = (self.places - positions.unsqueeze(2)) * 0.5  # (N, G, HW, n, 2), x before y
        grid = grid.flatten(0, 1)
        table = self.table.expand(batch, -1, -1, -1, -1).flatten(0, 1)  # (N*G, M/G, 2q-1, 2q-1)
        sampled = F.grid_sample(table, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return sampled.reshape(-1, self.heads, self.tokens, agents)
