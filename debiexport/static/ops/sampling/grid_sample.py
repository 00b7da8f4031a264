"""Sampling with the GridSample operation of a target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.positions import Positions


class GridSampling(nn.Module):
    """See the module."""

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, dtype: torch.dtype, heads: type[Heads]) -> None:
        super().__init__()
        assert geometry.stage.offset_groups
        assert geometry.agent_size
        self.groups, self.size = geometry.stage.offset_groups, geometry.padded_size
        self.agent_size = geometry.agent_size

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        """Sample a map (N, H, W, C) at the agents' positions, group-wise -> (N, Hk, Wk, C)."""
        channels = x.shape[-1]
        grid = positions.reshape(-1, *self.agent_size, 2)
        grouped = x.permute(0, 3, 1, 2).reshape(-1, channels // self.groups, *self.size)
        out = F.grid_sample(grouped, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return out.reshape(-1, channels, *self.agent_size).permute(0, 2, 3, 1)
