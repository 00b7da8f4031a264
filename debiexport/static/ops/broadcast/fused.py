"""Broadcast as one operation that computes the position bias inside: see `plugins/agent_attention`."""

from __future__ import annotations

from math import prod

from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.plugins.agent_attention.op import agent_attention
from debiexport.plugins.agent_attention.sizes import Sizes
from debiexport.static.ops.bias.fused import TableAtPositions
from debiexport.static.ops.broadcast.base import Broadcast
from debiexport.static.ops.heads import Heads


class FusedBroadcast(Broadcast):
    """See the module."""

    format = "nhwc"
    takes = "table"

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or why the kernel does not cover the geometry."""
        g, stage = geometry, geometry.stage
        assert g.padded_agent_size
        assert stage.offset_groups
        assert stage.table_side
        agents = prod(g.padded_agent_size)
        sizes = Sizes(1, g.padded_size, agents, g.heads, g.head_width, stage.offset_groups, stage.table_side, "fp32")
        reason: str | None = sizes.refusal
        return reason

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        self.heads = geometry.heads

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: TableAtPositions) -> Tensor:  # type: ignore[override]
        """q (N, C, H, W), k and v (N, Hk, Wk, C) -> (N, H, W, C)."""
        out: Tensor = agent_attention(q.permute(0, 2, 3, 1), k, v, bias.positions, bias.table, self.heads)
        return out
