"""Agents on the channel axis: scores (N*G, n, M/G, H*W), softmax over axis 1, one small transpose."""

from __future__ import annotations

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.broadcast.base import Broadcast
from debiexport.static.ops.heads import Heads, InterleavedHeads
from debiexport.static.ops.heads.order import by_head

PRODUCT = "nchw,nwhu->nchu"
"""Of (N, c, H, w) and (N, w, H, u), over w: the only product of rank 4 that has an operation of its own in Core ML."""


class ChannelBroadcast(Broadcast):
    """See the module."""

    format = "nchw"

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        assert geometry.padded_agent_size
        groups = geometry.stage.offset_groups
        assert groups
        m, d = geometry.heads, geometry.head_width
        self.tokens = InterleavedHeads(by_head(geometry.padded_size, m), d, groups)
        self.agents = InterleavedHeads(by_head(geometry.padded_agent_size, m), d, groups)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """q (N, C, H, W), k and v (N, C, Hk, Wk), bias (N*G, n, M/G, H*W) -> (N, C, H, W)."""
        q, k, v = self.tokens.split(q), self.agents.split(k), self.agents.split(v)  # (N*G, d, M/G, HW or n)
        scores = torch.einsum(PRODUCT, k.permute(0, 3, 2, 1), q) + bias  # (N*G, n, M/G, HW)
        return self.tokens.merge(torch.einsum(PRODUCT, v, scores.softmax(1)))
