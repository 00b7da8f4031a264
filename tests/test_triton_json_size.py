"""Estimates of requests as JSON, against what Python writes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from debiexport.signature import TensorSpec
from debiexport.triton.json_size import json_bytes


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int8", "uint16", "int32", "int64", "bool"])
def test_numbers_are_about_as_long_as_they_are_written(dtype: str) -> None:
    rng = np.random.default_rng(0)
    if dtype.startswith("float"):
        values = rng.normal(size=3000).astype(dtype)
    elif dtype == "bool":
        values = rng.integers(0, 2, 3000).astype(bool)
    else:
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, 3000, dtype=dtype, endpoint=True)
    written = len(json.dumps(values.tolist(), separators=(",", ":")))
    estimate = json_bytes([TensorSpec("images", dtype, (None, 3, 100))], 10)
    assert 0.95 * written < estimate < 1.5 * written


def test_inputs_and_batches_add_up() -> None:
    image, scale = TensorSpec("a", "uint8", (2, 5)), TensorSpec("b", "float16", (2, 3))
    assert json_bytes([image], 2) == 2 * 5 * len("255,")
    assert json_bytes([image, scale], 2) == 2 * (5 * 4 + 3 * 20)
    assert json_bytes([TensorSpec("c", "bfloat16", (None, 2, None))], 3) == 3 * 2 * 20  # an open side is at least one
