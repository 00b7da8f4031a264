"""Position bias as samples of a constant, for the small maps of the late stages; see `bias.sampled`."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.bias.sampled import SampledBias, pairs_of_pixels
from debiexport.static.ops.positions import Displacements, padded_agent_centres
from debiexport.static.ops.sampling.channels import ChannelPixelWeights


class ChannelSampledBias(nn.Module):
    """See the module."""

    format = "nchw"
    pairs: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that the table does not step with the tokens, or the constant would be too large."""
        return SampledBias.supports(geometry)

    def __init__(self, geometry: AttentionGeometry, table: Tensor) -> None:
        """Args: table: (M, 2q-1, 2q-1)."""
        super().__init__()
        assert geometry.stage.offset_groups
        groups, tokens, centres = (
            geometry.stage.offset_groups,
            prod(geometry.padded_size),
            padded_agent_centres(geometry),
        )
        self.groups, self.agents, self.heads, self.tokens = groups, len(centres), geometry.heads // groups, tokens
        # (M, tokens, pixels) -> (G, pixels, M/G*tokens)
        pairs = pairs_of_pixels(geometry, table).reshape(groups, self.heads * tokens, tokens).transpose(1, 2)
        self.register_buffer("pairs", pairs.contiguous())
        self.weights = ChannelPixelWeights(geometry.padded_size, centres, table.dtype)

    def forward(self, displacements: Displacements) -> Tensor:
        """Bias (N*G, n, M/G, H*W) of every token against every agent."""
        weights = self.weights(displacements).reshape(-1, self.groups, self.agents, self.tokens)
        return (weights @ self.pairs).reshape(-1, self.agents, self.heads, self.tokens)  # type: ignore[no-any-return]
