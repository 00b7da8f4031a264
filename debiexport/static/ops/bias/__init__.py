"""The bias slot: the position bias of every token against every agent."""

from __future__ import annotations

from debiexport.static.ops.bias.grid_sample import GridBias
from debiexport.static.ops.bias.hat import HatBias

IMPLEMENTATIONS = {"grid_sample": GridBias, "hat": HatBias}
