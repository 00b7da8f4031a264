"""The layout slot: how the residual stream lies in memory, and what attention reads."""

from __future__ import annotations

from debiexport.static.ops.layout.base import Layout
from debiexport.static.ops.layout.channels import ChannelsLayout
from debiexport.static.ops.layout.nchw import NCHWLayout

IMPLEMENTATIONS: dict[str, type[Layout]] = {"channels": ChannelsLayout, "nchw": NCHWLayout}

__all__ = ["IMPLEMENTATIONS", "ChannelsLayout", "Layout", "NCHWLayout"]
