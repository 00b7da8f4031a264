"""The broadcast slot: every token attends to the agents, see `base`."""

from __future__ import annotations

from debiexport.static.ops.broadcast.base import Broadcast
from debiexport.static.ops.broadcast.channels import ChannelBroadcast
from debiexport.static.ops.broadcast.fused import FusedBroadcast
from debiexport.static.ops.broadcast.rows import RowBroadcast

IMPLEMENTATIONS: dict[str, type[Broadcast]] = {
    "channels": ChannelBroadcast,
    "fused": FusedBroadcast,
    "rows": RowBroadcast,
}

__all__ = ["IMPLEMENTATIONS", "Broadcast", "ChannelBroadcast", "FusedBroadcast", "RowBroadcast"]
