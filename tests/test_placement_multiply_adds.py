"""Multiply-adds of operations whose figures are known by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_packages import ct, edit, mb, operations, read, save

from debiexport.errors import BundleError
from debiexport.evaluate.program import Function
from debiexport.placement.multiply_adds import multiply_adds


def weights(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float16)


def counts(function: Function) -> dict[str, int]:
    """By type, of the operations that are no constants."""
    return {one.type: multiply_adds(function, one) for one in function.operations if not one.is_constant}


def made(path: Path, build: Callable[..., Any], *inputs: tuple[int, ...], target: Any = None) -> Function:
    return read(save(path / "a.mlpackage", build, inputs, target=target, dtype="fp16")).function()


def test_convolutions(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        x = mb.conv(x=x, weight=weights(12, 2, 3, 3), groups=4, bias=weights(12))  # (1, 8, 6, 6) -> (1, 12, 4, 4)
        x = mb.relu(x=x)
        # Each of the 12 x 4 x 4 numbers goes into 5 channels, 2 x 2 places.
        return mb.conv_transpose(x=x, weight=weights(12, 5, 2, 2), strides=[2, 2])

    found = counts(made(tmp_path, build, (1, 8, 6, 6)))
    assert found == {"conv": 12 * 4 * 4 * 2 * 9, "relu": 0, "conv_transpose": 12 * 4 * 4 * 5 * 4}


def test_depthwise_and_strided_convolutions_and_padding(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.conv(x=x, weight=weights(8, 1, 3, 3), groups=8, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1])

    assert counts(made(tmp_path, build, (2, 8, 6, 6))) == {"conv": 2 * 8 * 3 * 3 * 9}  # products with padding too


def test_linear(tmp_path: Path) -> None:
    found = counts(made(tmp_path, lambda x: mb.linear(x=x, weight=weights(7, 5), bias=weights(7)), (2, 3, 5)))
    assert found == {"linear": 2 * 3 * 5 * 7}


@pytest.mark.parametrize(
    ("x", "y", "transposed", "expected"),
    [
        ((2, 3, 4, 5), (2, 3, 5, 7), (False, False), 2 * 3 * 4 * 5 * 7),
        ((2, 3, 5, 4), (2, 3, 7, 5), (True, True), 2 * 3 * 4 * 5 * 7),
        ((3, 4, 5), (2, 3, 5, 7), (False, False), 2 * 3 * 4 * 5 * 7),  # broadcast
        ((5,), (5, 7), (False, False), 5 * 7),
    ],
)
def test_matmul(tmp_path: Path, x: Any, y: Any, transposed: tuple[bool, bool], expected: int) -> None:
    def build(x: Any, y: Any) -> Any:
        return mb.matmul(x=x, y=y, transpose_x=transposed[0], transpose_y=transposed[1])

    assert counts(made(tmp_path, build, x, y)) == {"matmul": expected}


@pytest.mark.parametrize(
    ("equation", "x", "y", "expected"),
    [
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 7), 2 * 3 * 4 * 5 * 7),
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (1, 5, 1, 7), 2 * 3 * 4 * 5 * 7),  # broadcast
        ("chw,whr->chr", (3, 4, 5), (5, 4, 7), 3 * 4 * 5 * 7),
    ],
)
def test_einsum(tmp_path: Path, equation: str, x: Any, y: Any, expected: int) -> None:
    found = counts(made(tmp_path, lambda x, y: mb.einsum(values=(x, y), equation=equation), x, y))
    assert found == {"einsum": expected}


def test_attention(tmp_path: Path) -> None:
    def build(q: Any, k: Any, v: Any) -> Any:
        return mb.scaled_dot_product_attention(query=q, key=k, value=v)

    function = made(tmp_path, build, (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7), target=ct.target.iOS18)
    # Scores 4 x 6 of width 5, then results 4 x 7 of 6 values, for each of 2 x 3.
    assert counts(function) == {"scaled_dot_product_attention": 2 * 3 * (4 * 6 * 5 + 4 * 7 * 6)}


def damaged(path: Path, build: Callable[..., Any], *inputs: tuple[int, ...], change: Callable[[Any], None]) -> Function:
    """A function whose last operation was changed in the file."""
    package = save(path / "a.mlpackage", build, inputs, dtype="fp16")
    edit(package, lambda model: change(operations(model)[-1]))
    return read(package).function()


def test_a_missing_argument(tmp_path: Path) -> None:
    function = damaged(
        tmp_path,
        lambda x: mb.linear(x=x, weight=weights(7, 5), name="last"),
        (3, 5),
        change=lambda operation: operation.inputs.pop("weight"),
    )
    with pytest.raises(BundleError, match=r"^'last' \(linear\) is damaged, it has 0 arguments 'weight', not one: "):
        counts(function)


def test_too_few_dimensions(tmp_path: Path) -> None:
    function = damaged(
        tmp_path,
        lambda x: mb.linear(x=x, weight=weights(7, 5), bias=weights(7), name="last"),
        (3, 5),
        change=lambda operation: operation.inputs["weight"].CopyFrom(operation.inputs["bias"]),
    )
    with pytest.raises(BundleError, match=r"'weight' has the shape \[7\], needed are 2 dimensions or more"):
        counts(function)


def test_an_equation_of_other_dimensions(tmp_path: Path) -> None:
    def change(operation: Any) -> None:
        del operation.inputs["values"].arguments[1]

    function = damaged(
        tmp_path,
        lambda x, y: mb.einsum(values=(x, y), equation="chw,whr->chr", name="last"),
        (3, 4, 5),
        (5, 4, 7),
        change=change,
    )
    with pytest.raises(BundleError, match=r"its equation 'chw,whr->chr' does not fit \[\[3, 4, 5\]\]"):
        counts(function)


def test_an_operation_without_result(tmp_path: Path) -> None:
    function = damaged(
        tmp_path,
        lambda x: mb.abs(x=mb.linear(x=x, weight=weights(7, 5), name="last")),
        (3, 5),
        change=lambda operation: None,
    )
    linear = function.producers["last"]
    bare = type(linear)(linear.type, linear.name, linear.inputs, (), {})
    with pytest.raises(BundleError, match="it gives no tensor"):
        multiply_adds(function, bare)
