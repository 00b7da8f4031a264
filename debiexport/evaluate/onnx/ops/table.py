"""What every kind of operation computes, in one table; see `ops` for what the functions take and give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from debiexport.evaluate.onnx.ops import (
    activations,
    convolutions,
    elementwise,
    joining,
    linear,
    making,
    norms,
    pooling,
    reductions,
    sampling,
    scattering,
    selection,
    shapes,
)

OPERATIONS: dict[str, Callable[..., Any]] = {
    **activations.OPERATIONS,
    **convolutions.OPERATIONS,
    **elementwise.OPERATIONS,
    **joining.OPERATIONS,
    **linear.OPERATIONS,
    **making.OPERATIONS,
    **norms.OPERATIONS,
    **pooling.OPERATIONS,
    **reductions.OPERATIONS,
    **sampling.OPERATIONS,
    **scattering.OPERATIONS,
    **selection.OPERATIONS,
    **shapes.OPERATIONS,
}
