"""What TensorRT has to know of agent attention."""

from __future__ import annotations

from debiexport.plugins.agent_attention.sizes import CONFIGURATIONS, Sizes
from debiexport.plugins.interface import ELEMENT, Interface

INTERFACE = Interface(
    name="AgentAttention",
    inputs={"q": ELEMENT, "k": ELEMENT, "v": ELEMENT, "positions": "FP32", "table": "FP32"},
    attributes=("heads",),
    sizes=Sizes.of,
    configurations=len(CONFIGURATIONS),
)
