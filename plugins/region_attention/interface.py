"""What TensorRT has to know of region attention."""

from __future__ import annotations

from ..interface import ELEMENT, Interface
from .sizes import CONFIGURATIONS, Sizes

INTERFACE = Interface(
    name="RegionAttention",
    inputs={"q": ELEMENT, "k": ELEMENT, "v": ELEMENT, "routes": "INT32"},
    attributes=("heads", "regions"),
    sizes=Sizes.of,
    configurations=len(CONFIGURATIONS),
)
