"""Position bias in two matrix products, where a token's step is one entry of the table (q = H = W).

Then only the agent's fractional position interpolates, and it weighs the same shifts for every token: with
the hat weights h of pixel i at the agent's position, row y of the table seen by it is
sum_i h_i table[y + q-1 - i]. The shifted tables are a constant, and the first product has H terms a line
instead of 2q-1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.bias.hat import TableWeights
from debiexport.static.ops.hat import hat, pixels
from debiexport.static.ops.positions import Positions


def refusal(geometry: AttentionGeometry) -> str | None:
    """Why a token's step is not one entry of the table; None if it is."""
    q, (height, width) = geometry.stage.table_side, geometry.padded_size
    if (height, width) == (q, q):
        return None
    return f"the map has {height}x{width} tokens and the table steps for {q}x{q}"


def shifted(table: Tensor, tokens: int) -> Tensor:
    """(M, 2q-1, ...) -> (M, i, y, ...) = table[y + q-1 - i], for q = tokens."""
    index = torch.arange(tokens).unsqueeze(0) + (tokens - 1) - torch.arange(tokens).unsqueeze(1)
    return table[:, index]


class LineBias(nn.Module):
    """See the module."""

    lines: Tensor
    centres: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that the table does not step with the tokens."""
        return refusal(geometry)

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, self.heads = geometry.stage.offset_groups, geometry.heads
        self.side = geometry.padded_size[0]
        per_group = self.heads // self.groups
        lines = shifted(table, self.side).reshape(self.groups, per_group, self.side, -1).transpose(1, 2)
        # (G, H, M/G*H*(2q-1)); a single group's is a matrix, which runtimes lay out for their products beforehand.
        lines = lines.reshape(self.groups, self.side, -1)
        self.register_buffer("lines", lines.squeeze(0) if self.groups == 1 else lines)
        self.columns = TableWeights(self.side, table.shape[-1], table.dtype)
        self.reach = (self.side - 1) / 2
        self.register_buffer("centres", pixels(self.side, torch.float64).sub(self.reach).to(table.dtype))

    def forward(self, positions: Positions) -> Tensor:
        """Bias (N, M, H*W, n) of every token against every agent."""
        agents = positions.shape[2]
        x, y = positions.unbind(-1)
        rows = hat((y * self.reach).unsqueeze(-1) - self.centres)  # (N, G, n, H)
        shifts = self.heads // self.groups * self.side  # M/G*H, the lines of all heads of a group
        lines = (rows @ self.lines).reshape(-1, self.groups, agents, shifts, 2 * self.side - 1)
        bias = lines @ self.columns(x).transpose(-2, -1)  # (N, G, n, M/G*H, W)
        bias = bias.reshape(-1, self.groups, agents, shifts * self.side).transpose(-2, -1)
        return bias.reshape(-1, self.heads, self.side**2, agents)  # type: ignore[no-any-return]
