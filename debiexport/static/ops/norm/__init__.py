"""The norm slot: LayerNorm over channels of what attention reads."""

from __future__ import annotations

from debiexport.static.ops.norm.channel import ChannelNorm
from debiexport.static.ops.norm.instance import InstanceNorm
from debiexport.static.ops.norm.layernorm import LayerNorm

IMPLEMENTATIONS = {"channel": ChannelNorm, "instance": InstanceNorm, "layernorm": LayerNorm}
