"""The position bias that is cheapest on a CPU, attention by attention. Measured by `benchmarks/ablation.py`."""

from __future__ import annotations

from math import prod
from typing import Any

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.bias.hat import HatBias
from debiexport.static.ops.bias.lines import LineBias
from debiexport.static.ops.bias.sampled import SampledBias

MAX_TOKENS = 256  # beyond, one product with every pair of tokens costs more than two products with lines


def cheapest_bias(geometry: AttentionGeometry) -> Any:
    """`SampledBias` for small maps, else `LineBias`; `HatBias` where the table does not step with the tokens."""
    if SampledBias.supports(geometry) is None and prod(geometry.padded_size) <= MAX_TOKENS:
        return SampledBias
    return LineBias if LineBias.supports(geometry) is None else HatBias
