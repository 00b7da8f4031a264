"""The sampling slot: agents are bilinear samples of a map at positions."""

from __future__ import annotations

from debiexport.static.ops.sampling.hat import HatSampling

IMPLEMENTATIONS = {"hat": HatSampling}
