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

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, self.heads = geometry.stage.offset_groups, geometry.heads
        self.tokens, self.side = geometry.padded_size, table.shape[-1]
        per_group = self.heads // self.groups
        self.register_buffer("table", table.reshape(1, self.groups, per_group, self.side, self.side))
        self.rows, self.columns = (TableWeights(n, self.side, table.dtype) for n in self.tokens)

    def forward(self, positions: Positions) -> Tensor:
        """Bias (N, M, H*W, n) of every token against every agent."""
        agents, (height, width) = positions.shape[2], self.tokens
        x, y = positions.unbind(-1)
        rows = self.rows(y).reshape(-1, self.groups, 1, agents * height, self.side)
        lines = rows @ self.table  # (N, G, M/G, n*H, 2q-1)
        lines = lines.reshape(-1, self.groups, self.heads // self.groups, agents, height, self.side)
        bias = lines @ self.columns(x).unsqueeze(2).transpose(-2, -1)  # (N, G, M/G, n, H, W)
        return bias.reshape(-1, self.heads, agents, height * width).transpose(-2, -1)  # type: ignore[no-any-return]


class TableWeights(nn.Module):
    """Weights of a table's entries along one axis, for every token's and agent's place on it.

    Args:
        tokens: H or W.
        side: 2q-1, entries of the table.
        dtype: of the weights.
    """

    entries: Tensor

    def __init__(self, tokens: int, side: int, dtype: torch.dtype) -> None:
        super().__init__()
        step = (side - 1) / 2  # q-1
        self.reach = step / 2
        # Table entry u seen from token i: u - i (q-1)/(H-1). What is left is the agent's share, (1-p)(q-1)/2.
        seen = pixels(side, torch.float64) - pixels(tokens, torch.float64).unsqueeze(-1) * step / (tokens - 1)
        self.register_buffer("entries", (seen - self.reach).to(dtype))

    def forward(self, p: Tensor) -> Tensor:
        """Positions (N, G, n) on this axis -> (N, G, n, tokens, 2q-1)."""
        return hat((p * self.reach).unsqueeze(-1).unsqueeze(-1) + self.entries)
