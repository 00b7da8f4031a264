"""The bias slot: the position bias of every token against every agent.

An entry of `IMPLEMENTATIONS` is an implementation, one of `POLICIES` chooses one for each attention. Its attribute
`gives` says what the broadcast slot is handed: "scores", numbers that are added to the scores, or "table", what they
are made of.
"""

from __future__ import annotations

from debiexport.static.ops.bias.auto import cheapest_bias
from debiexport.static.ops.bias.channels import (
    ChannelHatBias,
    ChannelLineBias,
    ChannelSampledBias,
    smallest_bias,
)
from debiexport.static.ops.bias.fused import FusedBias
from debiexport.static.ops.bias.grid_sample import GridBias
from debiexport.static.ops.bias.hat import HatBias
from debiexport.static.ops.bias.lines import LineBias
from debiexport.static.ops.bias.sampled import SampledBias

IMPLEMENTATIONS = {
    "channel_hat": ChannelHatBias,
    "channel_lines": ChannelLineBias,
    "channel_sampled": ChannelSampledBias,
    "fused": FusedBias,
    "grid_sample": GridBias,
    "hat": HatBias,
    "lines": LineBias,
    "sampled": SampledBias,
}
POLICIES = {"auto": cheapest_bias, "smallest": smallest_bias}
