"""Weights of a table's entries along one axis, for agents that lie off their centres."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.static.ops.hat import hat, pixels


class TableAxis(nn.Module):
    """Hat weights of the entries 0..2q-2 at t = i (q-1)/(H-1) + (1-p)(q-1)/2, for token i and an agent at p.

    What the token and the agent's centre give is a constant, the rest is the agent's displacement.

    Args:
        tokens: H or W.
        side: 2q-1.
        centres: (n,) of the agents on this axis, float64.
        dtype: of the weights.
    """

    seen: Tensor

    def __init__(self, tokens: int, side: int, centres: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        step = (side - 1) / 2  # q-1
        self.reach = step / 2
        token = pixels(tokens, torch.float64).unsqueeze(-1) * step / (tokens - 1)
        agent = ((1 - centres) * self.reach).reshape(-1, 1, 1)
        self.register_buffer("seen", (pixels(side, torch.float64) - token - agent).to(dtype))

    def forward(self, displacement: Tensor) -> Tensor:
        """(N*G, n, 1, 1) -> (N*G, n, tokens, 2q-1)"""
        return hat(displacement * self.reach + self.seen)
