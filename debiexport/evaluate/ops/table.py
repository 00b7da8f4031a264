"""What every kind of operation computes, in one table; see `ops` for what the functions take and give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from debiexport.evaluate.ops import (
    activations,
    arrangement,
    classify,
    convolutions,
    elementwise,
    joining,
    linear,
    norms,
    pooling,
    quantization,
    reductions,
    resizing,
    sampling,
    scattering,
    selection,
    shapes,
)

OPERATIONS: dict[str, Callable[..., Any]] = {
    **activations.OPERATIONS,
    **arrangement.OPERATIONS,
    **classify.OPERATIONS,
    **convolutions.OPERATIONS,
    **elementwise.OPERATIONS,
    **joining.OPERATIONS,
    **linear.OPERATIONS,
    **norms.OPERATIONS,
    **pooling.OPERATIONS,
    **quantization.OPERATIONS,
    **reductions.OPERATIONS,
    **resizing.OPERATIONS,
    **sampling.OPERATIONS,
    **scattering.OPERATIONS,
    **selection.OPERATIONS,
    **shapes.OPERATIONS,
}
