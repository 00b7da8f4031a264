"""The layout slot: how the residual stream lies in memory, and what attention reads."""

from __future__ import annotations

from debiexport.static.ops.layout.nchw import NCHWLayout

IMPLEMENTATIONS = {"nchw": NCHWLayout}
