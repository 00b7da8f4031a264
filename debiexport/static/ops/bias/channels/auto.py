"""The position bias with the fewest operations, attention by attention."""

from __future__ import annotations

from math import prod
from typing import Any

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.bias.channels.hat import ChannelHatBias
from debiexport.static.ops.bias.channels.lines import ChannelLineBias
from debiexport.static.ops.bias.channels.sampled import ChannelSampledBias

MAX_TOKENS = 256  # beyond, the constant with every pair of tokens is larger than the stage's weights


def smallest_bias(geometry: AttentionGeometry) -> Any:
    """`ChannelSampledBias` for small maps, else `ChannelLineBias`; `ChannelHatBias` where the table does not step."""
    if ChannelSampledBias.supports(geometry) is None and prod(geometry.padded_size) <= MAX_TOKENS:
        return ChannelSampledBias
    return ChannelLineBias if ChannelLineBias.supports(geometry) is None else ChannelHatBias
