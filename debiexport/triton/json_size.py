"""How large a request is as JSON text, of which Triton takes only so much."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from debiexport.signature import TensorSpec

SAFE_BYTES = 4_000_000
"""Triton 2.51 was seen to end with signal 11 at 4.5 MB of JSON, and to answer at 3 MB."""
_FLOAT_BYTES = 20  # as Python writes a float32, which it takes for a float64: -2.117903947830200, and a space


def json_bytes(inputs: Sequence[TensorSpec], batch: int) -> int:
    """About how many bytes a request of a batch has as JSON text.

    Args:
        inputs: with the batch as their first side.
        batch: images in the request.
    """
    return sum(batch * prod(side or 1 for side in tensor.shape[1:]) * _number_bytes(tensor.dtype) for tensor in inputs)


def _number_bytes(dtype: str) -> int:
    """About what a number takes: an integer at most, with its comma."""
    if "float" in dtype:
        return _FLOAT_BYTES
    if dtype == "bool":
        return len("false,")
    limits = np.iinfo(dtype)
    return max(len(f"{limits.min},"), len(f"{limits.max},"))
