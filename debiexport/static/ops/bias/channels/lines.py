"""Position bias in two matrix products, where a token's step is one entry of the table; see `bias.lines`."""

from __future__ import annotations

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.bias.channels.table import TableAxis
from debiexport.static.ops.bias.lines import refusal, shifted
from debiexport.static.ops.positions import Displacements, padded_agent_centres
from debiexport.static.ops.sampling.channels import AxisWeights


class ChannelLineBias(nn.Module):
    """See the module."""

    format = "nchw"
    lines: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that the table does not step with the tokens."""
        return refusal(geometry)

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, centres = geometry.stage.offset_groups, padded_agent_centres(geometry)
        self.heads, self.agents, self.side = geometry.heads // self.groups, len(centres), geometry.padded_size[0]
        lines = shifted(table, self.side).reshape(self.groups, self.heads, self.side, -1).transpose(1, 2)
        self.register_buffer("lines", lines.reshape(self.groups, self.side, -1).contiguous())  # (G, H, M/G*H*(2q-1))
        self.rows = AxisWeights(self.side, centres[:, 1], table.dtype)
        self.columns = TableAxis(self.side, table.shape[-1], centres[:, 0], table.dtype)

    def forward(self, displacements: Displacements) -> Tensor:
        """Bias (N*G, n, M/G, H*W) of every token against every agent."""
        x = displacements[..., 0].reshape(-1, self.agents, 1, 1)
        rows = self.rows(displacements[..., 1:])  # (N, G, n, H)
        lines = (rows @ self.lines).reshape(-1, self.agents, self.heads * self.side, 2 * self.side - 1)
        bias = lines @ self.columns(x).transpose(-2, -1)  # (N*G, n, M/G*H, W)
        return bias.reshape(-1, self.agents, self.heads, self.side**2)  # type: ignore[no-any-return]
