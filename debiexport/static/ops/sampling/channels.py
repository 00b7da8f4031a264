"""Sampling as one matrix product with bilinear weights, of maps (N, C, H, W) and displacements of the agents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.hat import hat, pixels
from debiexport.static.ops.positions import Displacements, agent_centres


class AxisWeights(nn.Module):
    """Weights of the pixels along one axis, for agents that lie off their centres.

    A position p in [-1, 1] lies at t = (p + 1) (size - 1) / 2. What the agent's centre gives of t - i is a constant.

    Args:
        size: pixels of the axis.
        centres: (n,) of the agents on this axis, float64.
        dtype: of the weights.
    """

    seen: Tensor

    def __init__(self, size: int, centres: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.reach = (size - 1) / 2
        seen = (centres + 1).unsqueeze(-1) * self.reach - pixels(size, torch.float64)
        self.register_buffer("seen", seen.to(dtype))

    def forward(self, displacement: Tensor) -> Tensor:
        """(N, G, n, 1) -> (N, G, n, size)"""
        return hat(displacement * self.reach + self.seen)


class ChannelPixelWeights(nn.Module):
    """Weights of all pixels of a map for agents with given centres (n, 2)."""

    def __init__(self, size: tuple[int, int], centres: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        (self.height, self.width), self.agents = size, len(centres)
        self.columns = AxisWeights(self.width, centres[:, 0], dtype)
        self.rows = AxisWeights(self.height, centres[:, 1], dtype)

    def forward(self, displacements: Displacements) -> Tensor:
        """(N, G, n, 2) -> (N*G, n, H*W)"""
        x, y = displacements[..., :1], displacements[..., 1:]
        rows = self.rows(y).reshape(-1, self.agents, self.height, 1)
        columns = self.columns(x).reshape(-1, self.agents, 1, self.width)
        return (rows * columns).flatten(2)  # type: ignore[no-any-return]


class ChannelSampling(nn.Module):
    """See the module."""

    format = "nchw"

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, dtype: torch.dtype, heads: Any) -> None:
        super().__init__()
        groups = geometry.stage.offset_groups
        assert groups
        assert geometry.agent_size
        self.width, self.agent_size = geometry.channels // groups, geometry.agent_size
        self.weights = ChannelPixelWeights(geometry.padded_size, agent_centres(geometry), dtype)

    def forward(self, x: Tensor, displacements: Displacements) -> Tensor:
        """Sample a map (N, C, H, W) at the agents, group-wise -> (N, C, Hk, Wk)."""
        channels, pixels = x.shape[1], x.shape[-2] * x.shape[-1]
        sampled = x.reshape(-1, self.width, pixels) @ self.weights(displacements).transpose(1, 2)  # (N*G, c, n)
        return sampled.reshape(-1, channels, *self.agent_size)  # type: ignore[no-any-return]
