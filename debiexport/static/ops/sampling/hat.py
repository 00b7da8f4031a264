"""Sampling as one matrix product with bilinear weights (n x H*W).

Positions are clamped to the map, so the zero padding of the released grid_sample never acts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.hat import hat, pixels
from debiexport.static.ops.positions import Positions


class HatSampling(nn.Module):
    """See the module."""

    columns: Tensor
    rows: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, dtype: torch.dtype) -> None:
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups = geometry.stage.offset_groups
        self.height, self.width = geometry.padded_size
        self.register_buffer("rows", pixels(self.height, dtype))
        self.register_buffer("columns", pixels(self.width, dtype))

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        """Sample a map (N, C, H, W) at the agents' positions, group-wise -> (N, C, n)."""
        channels = x.shape[1]
        rows = hat((positions.y + 1) * ((self.height - 1) / 2), self.rows)  # (N, G, n, H)
        columns = hat((positions.x + 1) * ((self.width - 1) / 2), self.columns)  # (N, G, n, W)
        weights = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)  # (N, G, n, HW)
        grouped = x.reshape(-1, self.groups, channels // self.groups, self.height * self.width)
        return (grouped @ weights.transpose(-2, -1)).flatten(1, 2)
