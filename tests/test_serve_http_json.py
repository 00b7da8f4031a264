from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from serving import SIDES, images
from test_serve_requests import PIXELS, signature

from debiexport.serve.http_json import Listed, decode, encode, shape_of, value_of
from debiexport.serve.refusals import BadRequest

SHAPE = (2, *SIDES)


def array(data: list[Any], dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    found = Listed(data).array(signature(dtype).inputs[0], shape)
    assert found.dtype == dtype
    return found


def test_values_flat_and_nested_are_the_same() -> None:
    given = images(2)
    np.testing.assert_array_equal(array(given.ravel().tolist()), given)
    np.testing.assert_array_equal(array(given.tolist()), given)


def test_every_float32_survives_its_text() -> None:
    given = np.array([1 / 3, 1e-45, 3.4028235e38, -0.0] * (2 * PIXELS // 4), np.float32)
    found = array(json.loads(encode({"data": given.tolist()}))["data"])
    np.testing.assert_array_equal(found.ravel().view(np.uint32), given.view(np.uint32))


def test_bytes_are_whole_numbers() -> None:
    given = np.arange(2 * PIXELS, dtype=np.uint8).reshape(SHAPE)
    np.testing.assert_array_equal(array(given.tolist(), "uint8"), given)


@pytest.mark.parametrize(
    ("data", "dtype", "words"),
    [
        ([0.0] * 7, "float32", "has 7 values of data, expected 120 for the shape"),
        ([], "float32", "has 0 values"),
        ([[0.0] * 60, [0.0] * 60], "float32", "not nested as its shape"),
        ([[[[0.0] * 5] * 4] * 3, [[[0.0] * 5] * 4] * 2], "float32", "not nested as its shape"),
        ([[[[0.0] * 5] * 4] * 3, 0.0], "float32", "not nested as its shape"),
        ([[[[[0.0]] * 5] * 4] * 3] * 2, "float32", "that is a list"),
        ([*[0.0] * 119, [0.0]], "float32", "that is a list, expected FP32 numbers"),
        (["0", *[0.0] * 119], "float32", "that is a string, expected FP32 numbers"),
        ([True, *[0.0] * 119], "float32", "that is true or false"),
        ([None, *[0.0] * 119], "float32", "that is null"),
        ([10**400, *[0.0] * 119], "float32", "has a value beyond FP32"),
        ([0.5, *[0] * 119], "uint8", "that is a number with a fraction, expected UINT8 numbers"),
        ([256, *[0] * 119], "uint8", "values from 0 to 256, expected UINT8 of 0 to 255"),
        ([-1, *[0] * 119], "uint8", "values from -1 to 0, expected UINT8 of 0 to 255"),
    ],
)
def test_values_that_are_wrong(data: list[Any], dtype: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        array(data, dtype)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff", "the JSON is not UTF-8: invalid start byte at byte 0"),
        (b"null", "the JSON is null, expected an object"),
        (b'{"a": NaN}', "holds NaN, expected finite"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' more than once"),
        (b"[" * 4000 + b"]" * 4000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" + b"[]," * 5000 + b"[]]", "5000 values, expected at most"),
        (b"[" * 5000, "5000 lists, expected at most"),
        (b"{" * 5000, "5000 objects, expected at most"),
    ],
)
def test_text_that_is_wrong(text: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decode(text, signature())


def test_text_that_is_right() -> None:
    assert decode(memoryview('{"id": "é", "inputs": []}'.encode()), signature()) == {"id": "é", "inputs": []}


def test_entries_of_a_type() -> None:
    assert value_of({"a": 1}, "a", int, "it") == 1
    assert value_of({}, "a", int, "it", 5) == 5
    for value in (True, "1", None, 1.0):
        with pytest.raises(BadRequest, match=r"it has a .*, expected a whole number"):
            value_of({"a": value}, "a", int, "it")


def test_shapes_are_whole_numbers() -> None:
    assert shape_of("images", [1, 2]) == (1, 2)
    for side in (1.0, True, "1", None):
        with pytest.raises(BadRequest, match=r"input 'images' has a shape with .*, expected whole numbers"):
            shape_of("images", [side])


def test_answers_hold_finite_numbers_only() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode({"data": [value]})
