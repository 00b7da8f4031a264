"""The position bias of maps (N, C, H, W): (N*G, n, M/G, H*W), agents on the channel axis."""

from __future__ import annotations

from debiexport.static.ops.bias.channels.auto import smallest_bias
from debiexport.static.ops.bias.channels.hat import ChannelHatBias
from debiexport.static.ops.bias.channels.lines import ChannelLineBias
from debiexport.static.ops.bias.channels.sampled import ChannelSampledBias

__all__ = ["ChannelHatBias", "ChannelLineBias", "ChannelSampledBias", "smallest_bias"]
