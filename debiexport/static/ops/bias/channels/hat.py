"""Position bias as two matrix products, B = Y table X^T, for any size; see `bias.hat` for the formula."""

from __future__ import annotations

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.bias.channels.table import TableAxis
from debiexport.static.ops.positions import Displacements, padded_agent_centres


class ChannelHatBias(nn.Module):
    """See the module."""

    format = "nchw"
    table: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, self.side, centres = geometry.stage.offset_groups, table.shape[-1], padded_agent_centres(geometry)
        self.heads, self.agents, (self.height, self.width) = (
            geometry.heads // self.groups,
            len(centres),
            geometry.padded_size,
        )
        # (G, 2q-1, M/G*(2q-1)): rows of the table by heads and columns
        by_row = table.reshape(self.groups, self.heads, self.side, self.side).transpose(1, 2)
        self.register_buffer("table", by_row.reshape(self.groups, self.side, -1).contiguous())
        self.rows = TableAxis(self.height, self.side, centres[:, 1], table.dtype)
        self.columns = TableAxis(self.width, self.side, centres[:, 0], table.dtype)

    def forward(self, displacements: Displacements) -> Tensor:
        """Bias (N*G, n, M/G, H*W) of every token against every agent."""
        x, y = (displacements[..., i].reshape(-1, self.agents, 1, 1) for i in (0, 1))
        rows = self.rows(y).reshape(-1, self.groups, self.agents * self.height, self.side)
        lines = (rows @ self.table).reshape(-1, self.agents, self.height * self.heads, self.side)
        bias = lines @ self.columns(x).transpose(-2, -1)  # (N*G, n, H*M/G, W)
        bias = bias.reshape(-1, self.height, self.heads, self.width).transpose(1, 2)
        return bias.reshape(-1, self.agents, self.heads, self.height * self.width)  # type: ignore[no-any-return]
