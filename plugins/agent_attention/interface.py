"""What TensorRT has to know of agent attention."""

from __future__ import annotations

from ..interface import ELEMENT, Interface
from .sizes import CONFIGURATIONS, Sizes

INTERFACE = Interface(
    name="AgentAttention",
    inputs={"q": ELEMENT, "k": ELEMENT, "v": ELEMENT, "positions": "FP32", "table": "FP32"},
    attributes=("heads",),
    sizes=Sizes.of,
    configurations=len(CONFIGURATIONS),
)
