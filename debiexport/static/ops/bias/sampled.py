"""Position bias as samples of a constant: the bias of every token against every pixel, at the agents' positions.

Where a token's step is one entry of the table (q = H = W), the bias against an agent between pixels is the
bilinear interpolation of those against the pixels around it. The weights are those that sample the agents
themselves, so that they are computed once, and one matrix product is left. The constant has M (H*W)^2
numbers: for the small maps of the late stages.
"""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.bias.lines import refusal, shifted
from debiexport.static.ops.hat import BilinearWeights
from debiexport.static.ops.positions import Positions

MAX_CONSTANT = 2**22


def pairs_of_pixels(geometry: AttentionGeometry, table: Tensor) -> Tensor:
    """Table (M, 2q-1, 2q-1) -> (M, H*W, H*W): the bias of every token against an agent at every pixel."""
    rows = shifted(table, geometry.padded_size[0])  # (M, i, y, 2q-1)
    both = shifted(rows.flatten(0, 2).contiguous(), geometry.padded_size[1])  # (M*i*y, j, x)
    both = both.reshape(geometry.heads, *geometry.padded_size, *geometry.padded_size)  # (M, i, y, j, x)
    tokens = prod(geometry.padded_size)
    return both.permute(0, 2, 4, 1, 3).reshape(geometry.heads, tokens, tokens)  # (M, y, x, i, j)


class SampledBias(nn.Module):
    """See the module."""

    pairs: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that the table does not step with the tokens, or the constant would be too large."""
        numbers = geometry.heads * prod(geometry.padded_size) ** 2
        if numbers > MAX_CONSTANT:
            return f"the bias of every token against every pixel takes {numbers} numbers"
        return refusal(geometry)

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        self.groups, self.heads, self.tokens = geometry.stage.offset_groups, geometry.heads, prod(geometry.padded_size)
        pairs = pairs_of_pixels(geometry, table)
        self.register_buffer("pairs", pairs.reshape(1, self.groups, -1, self.tokens).contiguous())
        self.weights = BilinearWeights(geometry.padded_size, table.dtype)

    def forward(self, positions: Positions) -> Tensor:
        """Bias (N, M, H*W, n) of every token against every agent."""
        bias = self.pairs @ self.weights(positions).transpose(-2, -1)  # (N, G, M/G*H*W, n)
        return bias.reshape(-1, self.heads, self.tokens, positions.shape[2])  # type: ignore[no-any-return]
