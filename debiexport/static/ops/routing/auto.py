"""The routing that is cheapest on a CPU, attention by attention.

Copying regions costs what is copied, masking costs the scores of keys that are thrown away. Agents are few,
so their scores are; the tokens of BRA are many. Measured by `benchmarks/ablation.py`.
"""

from __future__ import annotations

from math import prod

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.gather import GatherRouting
from debiexport.static.ops.routing.masked import MaskedRouting

COPIES_PER_SCORE = 4  # a score that is thrown away costs about as much as four numbers copied


def cheapest_routing(geometry: AttentionGeometry) -> type[Routing]:
    """`MaskedRouting` for agents whose dense scores are fewer than a quarter of what gathering copies."""
    copied = 2 * geometry.region_count * geometry.top_k * prod(geometry.region_size) * geometry.channels
    scores = geometry.heads * prod(geometry.query_size) * prod(geometry.padded_size)
    masked = COPIES_PER_SCORE * scores <= copied
    return MaskedRouting if masked and MaskedRouting.supports(geometry) is None else GatherRouting
