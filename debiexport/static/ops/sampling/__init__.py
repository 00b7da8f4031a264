"""The sampling slot: agents are bilinear samples of a map at positions."""

from __future__ import annotations

from debiexport.static.ops.sampling.channels import ChannelSampling
from debiexport.static.ops.sampling.grid_sample import GridSampling
from debiexport.static.ops.sampling.hat import HatSampling

IMPLEMENTATIONS = {"channels": ChannelSampling, "grid_sample": GridSampling, "hat": HatSampling}
