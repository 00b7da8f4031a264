from __future__ import annotations

import math

import numpy as np
import pytest
from serving import SIDES, images

from debiexport.serve.refusals import BadRequest, shown
from debiexport.serve.requests import NamedTensor, Raw, Signature, make_request, side_list
from debiexport.signature import TensorSpec

PIXELS = math.prod(SIDES)


def signature(dtype: str = "float32", batch: int | None = None, most: int = 4) -> Signature:
    inputs = (TensorSpec("images", dtype, (batch, *SIDES)),)
    outputs = tuple(TensorSpec(name, "float32", (batch, 2)) for name in ("logits", "more"))
    return Signature("toy", inputs, outputs, batch or most, fixed=batch is not None)


def tensor(array: np.ndarray, datatype: str = "FP32", name: str = "images", shape: object = None) -> NamedTensor:
    sides = array.shape if shape is None else shape
    return NamedTensor(name, datatype, tuple(sides), Raw(array.tobytes()))  # type: ignore[arg-type]


def test_a_request_that_is_right() -> None:
    given = images(2)
    request = make_request(signature(), [tensor(given)], id="7", arrived_ns=5, timeout_us=3)
    np.testing.assert_array_equal(request.inputs["images"], given)
    assert (request.images, request.outputs, request.id) == (2, ("logits", "more"), "7")
    assert request.deadline_ns == 3005
    assert request.expired
    assert not make_request(signature(), [tensor(given)]).expired


def test_only_the_outputs_that_are_asked_for_in_their_order() -> None:
    assert make_request(signature(), [tensor(images())], ["more", "logits"]).outputs == ("more", "logits")
    assert make_request(signature(), [tensor(images())], ["more"]).outputs == ("more",)


def test_bytes() -> None:
    given = np.arange(PIXELS, dtype=np.uint8).reshape(1, *SIDES)
    request = make_request(signature("uint8"), [tensor(given, "UINT8")])
    np.testing.assert_array_equal(request.inputs["images"], given)


def test_values_that_lie_at_an_odd_address_are_moved() -> None:
    given = images()
    odd = memoryview(b"x" + given.tobytes())[1:]
    request = make_request(signature(), [NamedTensor("images", "FP32", given.shape, Raw(odd))])
    assert request.inputs["images"].flags.aligned
    np.testing.assert_array_equal(request.inputs["images"], given)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([], "missing are 'images'"),
        ([tensor(images(), name="pixels")], "unexpected inference input 'pixels' for model 'toy', expected 'images'"),
        ([tensor(images()), tensor(images())], "input 'images' is given 2 times, expected once"),
        ([tensor(images(), "INT64")], "datatype 'INT64', expected FP32"),
        ([tensor(images(), shape=(1, 3, 4))], r"Expected \[-1,3,4,5\], got \[1,3,4\]"),
        ([tensor(images(), shape=(1,) * 50)], r"got \[1,1,1,1,1,1,1,1\]…"),
        ([tensor(images(5))], "must be 1 to 4 for 'toy', got 5"),
        ([tensor(images(), shape=(0, *SIDES))], "must be 1 to 4 for 'toy', got 0"),
        ([tensor(images(), shape=(2, *SIDES))], "has 240 bytes of data, expected 480 for the shape"),
        ([tensor(np.full((1, *SIDES), np.nan, np.float32))], "NaN or infinite"),
        ([tensor(np.full((1, *SIDES), -np.inf, np.float32))], "NaN or infinite"),
    ],
)
def test_requests_that_are_wrong(tensors: list[NamedTensor], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        make_request(signature(), tensors)


def test_a_fixed_batch_is_that_batch() -> None:
    assert make_request(signature(batch=3), [tensor(images(3))]).images == 3
    with pytest.raises(BadRequest, match=r"Expected \[3,3,4,5\], got \[1,3,4,5\]"):
        make_request(signature(batch=3), [tensor(images(1))])


def test_inputs_of_different_batches() -> None:
    two = TensorSpec("images", "float32", (None, *SIDES)), TensorSpec("more", "float32", (None, 1))
    both = Signature("toy", two, two, 4, fixed=False)
    other = tensor(np.zeros((2, 1), np.float32), name="more")
    with pytest.raises(BadRequest, match="input 'more' has a batch of 2, expected 1 as of 'images'"):
        make_request(both, [tensor(images()), other])
    assert both.largest_elements == 4 * PIXELS + 4
    assert both.largest_bytes == 4 * both.largest_elements


@pytest.mark.parametrize(
    ("outputs", "words"),
    [(["scores"], "output 'scores' for model 'toy', expected 'logits', 'more'"), (["more", "more"], "2 times")],
)
def test_outputs_that_are_wrong(outputs: list[str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        make_request(signature(), [tensor(images())], outputs)


@pytest.mark.parametrize("timeout", [0, -1, 2**62])
def test_timeouts_that_are_wrong(timeout: int) -> None:
    with pytest.raises(BadRequest, match="the parameter timeout is"):
        make_request(signature(), [tensor(images())], timeout_us=timeout)


def test_an_id_without_end() -> None:
    with pytest.raises(BadRequest, match="the id has 2000 characters, expected at most 1024"):
        make_request(signature(), [tensor(images())], id="x" * 2000)


def test_what_a_client_sent_fits_in_a_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 10_000)) < 200
    assert shown({}) == "a dict"
    assert side_list((None, 3)) == "[-1,3]"
