"""Positions of the agents, from the one learned scalar per agent and group, as they pass between slots.

An agent stands at its reference point, a centre of the agent grid in [-1, 1], plus the scalar on both axes, and never
beyond the map: p = clamp(centre + offset, -1, 1). Agents that are padding stand at zero, the centre of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry

Positions = Tensor
"""(N, G, n, 2): column x and row y of each agent in [-1, 1] with align_corners=True, as GridSample takes them."""

Displacements = Tensor
"""(N, G, n, 2): how far x and y of each agent lie from its centre, clamped so that the position stays in [-1, 1]."""


def agent_centres(geometry: AttentionGeometry) -> Tensor:
    """Reference points (n, 2) of the agents before padding, x before y, float64."""
    assert geometry.agent_size
    hk, wk = geometry.agent_size
    y = (torch.arange(hk, dtype=torch.float64) + 0.5) / hk * 2 - 1
    x = (torch.arange(wk, dtype=torch.float64) + 0.5) / wk * 2 - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x, y), -1).reshape(-1, 2)


def padded_agent_centres(geometry: AttentionGeometry) -> Tensor:
    """The same with the agents that are padding, at zero: (n, 2)."""
    assert geometry.agent_size
    assert geometry.padded_agent_size
    (hk, wk), (ph, pw) = geometry.agent_size, geometry.padded_agent_size
    maps = agent_centres(geometry).reshape(hk, wk, 2)
    return F.pad(maps, (0, 0, 0, pw - wk, 0, ph - hk)).reshape(-1, 2)


class AgentPositions(nn.Module):
    """Offsets (N, G, n, 1) -> `Positions`.

    Args:
        geometry: of the attention.
        dtype: of the positions.
    """

    centres: Tensor

    def __init__(self, geometry: AttentionGeometry, dtype: torch.dtype) -> None:
        super().__init__()
        self.geometry = geometry
        self.register_buffer("centres", agent_centres(geometry).reshape(1, 1, -1, 2).to(dtype))

    def forward(self, offset: Tensor) -> Tensor:
        return (self.centres + offset).clamp(-1, 1)

    def pad(self, positions: Tensor) -> Tensor:
        """With the agents that are padding: (N, G, n, 2)."""
        g = self.geometry
        assert g.agent_size
        assert g.padded_agent_size
        if not g.agents_are_padded:
            return positions
        (hk, wk), (ph, pw) = g.agent_size, g.padded_agent_size
        groups = positions.shape[1]
        maps = positions.reshape(-1, hk, wk, 2)
        return F.pad(maps, (0, 0, 0, pw - wk, 0, ph - hk)).reshape(-1, groups, ph * pw, 2)


class AgentDisplacements(AgentPositions):
    """Offsets (N, G, n, 1) -> `Displacements`.

    The centres then go into the constants of whatever reads them. In float16 a position among 56 pixels has steps of
    1/32 pixel; a displacement of a few pixels has finer ones.
    """

    least: Tensor
    most: Tensor

    def __init__(self, geometry: AttentionGeometry, dtype: torch.dtype) -> None:
        super().__init__(geometry, dtype)
        centres = agent_centres(geometry)
        self.register_buffer("least", (-1 - centres).to(dtype))
        self.register_buffer("most", (1 - centres).to(dtype))

    def forward(self, offset: Tensor) -> Tensor:
        return offset.maximum(self.least).minimum(self.most)
