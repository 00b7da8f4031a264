"""Sampling as one matrix product with bilinear weights (n x H*W).

Positions are clamped to the map, so the zero padding of the released grid_sample never acts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.hat import BilinearWeights
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.heads.order import by_head
from debiexport.static.ops.positions import Positions


class HatSampling(nn.Module):
    """See the module. The groups of channels are split and merged like heads."""

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, dtype: torch.dtype, heads: type[Heads]) -> None:
        super().__init__()
        groups = geometry.stage.offset_groups
        assert groups
        assert geometry.agent_size
        width = geometry.channels // groups
        self.weights = BilinearWeights(geometry.padded_size, dtype)
        self.map_groups = heads(by_head(geometry.padded_size, groups), width)
        self.agent_groups = heads(by_head(geometry.agent_size, groups), width)

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        """Sample a map (N, H, W, C) at the agents' positions, group-wise -> (N, Hk, Wk, C)."""
        return self.agent_groups.merge(self.weights(positions) @ self.map_groups.split(x))
