"""Agents as rows: scores (N, M, H*W, n), softmax over the last axis."""

from __future__ import annotations

from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.broadcast.base import Broadcast
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.heads.order import by_head


class RowBroadcast(Broadcast):
    """See the module."""

    format = "nhwc"

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        assert geometry.padded_agent_size
        self.heads, self.width = geometry.heads, geometry.head_width
        self.tokens = heads(by_head(geometry.padded_size, self.heads), self.width)
        self.agents = heads(by_head(geometry.padded_agent_size, self.heads), self.width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """q (N, C, H, W), k and v (N, Hk, Wk, C), bias (N, M, H*W, n) -> (N, H, W, C)."""
        k, v = self.agents.split(k), self.agents.split(v)  # (N, M, n, d)
        q = q.reshape(-1, self.heads, self.width, q.shape[-2] * q.shape[-1]).transpose(-2, -1)  # (N, M, HW, d)
        scores = q @ k.transpose(-2, -1) + bias  # (N, M, HW, n)
        return self.tokens.merge(scores.softmax(-1) @ v)
