"""Whatever is changed in a saved package, `check` fails: one attribute, one constant or one weight at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debiexport.checking import check
from debiexport.errors import BundleError, ParityError

pytest.importorskip("coremltools")

from coreml_edits import Edit, change

OneLine = Callable[[BaseException], str]


def _plus(step: float, place: int = 0) -> Edit:
    """One number more by a step."""

    def edit(numbers: Any) -> Any:
        numbers[place] += step
        return numbers

    return edit


def _times(factor: float) -> Edit:
    return lambda numbers: numbers * factor


def _to(*values: Any) -> Edit:
    return lambda old: list(values)


ALTERATIONS: list[tuple[str, str, Edit, int]] = [
    ("conv", "weight", _plus(0.5), 0),  # of the stem
    ("conv", "weight", _plus(1.0, 4), 2),  # of a depthwise convolution
    ("conv", "weight", _plus(1.0), -1),
    ("conv", "bias", _plus(0.5), 1),
    ("conv", "pad", _to(0, 2, 0, 2), 0),
    ("conv", "dilations", _to(2, 2), 0),
    ("conv", "strides", _to(1, 1), 0),
    ("layer_norm", "epsilon", _to(1e-2), 0),
    ("layer_norm", "axes", _to(3), 2),
    ("gelu", "mode", lambda mode: "SIGMOID_APPROXIMATION", 0),
    ("softmax", "axis", _to(3), 0),
    ("softmax", "axis", _to(2), 1),
    ("add", "y", _plus(1.0), 0),
    ("mul", "y", _times(3.0), 2),
    ("sub", "x", _times(0.9), 0),
    ("maximum", "y", lambda least: least * 0 + 0.9, 0),
    ("minimum", "y", lambda most: most * 0 - 0.9, 0),
    ("less", "y", _times(2.0), 0),  # top-k
    ("equal", "y", _plus(1.0), 0),  # which of the ranks
    ("matmul", "y", _times(-20.0), 0),  # the table of the position bias
    ("matmul", "x", lambda rows: np.roll(rows, 1), 0),  # which token lies in which region
    ("avg_pool", "kernel_sizes", _to(1, 1), 0),
    ("avg_pool", "strides", _to(1, 1), 0),
    ("reduce_sum", "axes", _to(2), 0),
    ("transpose", "perm", _to(0, 1, 2, 3), 1),
    ("pixel_unshuffle", "downscale_factor", _to(2), 0),
    ("slice_by_index", "begin", _plus(1, 3), 0),
    ("reshape", "shape", lambda shape: shape[::-1], 0),
    ("expand_dims", "axes", _to(1), 0),
    ("einsum", "equation", lambda equation: "nchw,nwhu->nchx", 0),
    ("cast", "dtype", lambda dtype: "int32", 2),
    ("linear", "weight", _times(-20.0), 0),
    ("reduce_mean", "axes", _to(2), 0),
]


@pytest.mark.parametrize(
    ("kind", "parameter", "edit", "which"), ALTERATIONS, ids=[f"{k}-{p}-{n}" for k, p, _, n in ALTERATIONS]
)
def test_every_alteration_is_found(
    coreml_bundle: Path, one_line: OneLine, kind: str, parameter: str, edit: Edit, which: int
) -> None:
    change(coreml_bundle, kind, parameter, edit, which)
    with pytest.raises((ParityError, BundleError)) as caught:
        check(coreml_bundle)
    one_line(caught.value)
