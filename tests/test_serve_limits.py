from __future__ import annotations

from debiexport.serve.limits import BESIDE_DATA, LARGEST_JSON, MIB, Limits
from debiexport.serve.requests import Signature
from debiexport.signature import TensorSpec


def limits(dtype: str, side: int, most: int) -> Limits:
    inputs = (TensorSpec("images", dtype, (None, 3, side, side)),)
    return Limits.of([Signature("a", inputs, (), most, fixed=False), Signature("b", inputs, (), 1, fixed=False)])


def test_the_largest_request_gets_through_in_every_form() -> None:
    values = 8 * 3 * 224 * 224
    found = limits("float32", 224, 8)
    # Twice the largest batch is read too, so that its answer tells of the batch and not of bytes.
    assert found.message_bytes == 2 * 4 * values + BESIDE_DATA
    assert found.body_bytes == 26 * values + BESIDE_DATA  # as the longest float64s in JSON
    assert found.held_bytes == 128 * MIB
    assert limits("uint8", 224, 8).message_bytes == 2 * 2 * values + BESIDE_DATA  # as a list of numbers below 256


def test_json_is_bounded_and_binary_is_not_cut_by_it() -> None:
    assert limits("float32", 800, 4).body_bytes == LARGEST_JSON
    huge = limits("float32", 2048, 4)
    assert huge.body_bytes == huge.message_bytes == 2 * 4 * 4 * 3 * 2048**2 + BESIDE_DATA
    assert huge.held_bytes == 2 * huge.body_bytes


def test_what_waits() -> None:
    found = limits("float32", 224, 8)
    assert (found.stall_s, found.body_s) == (10, 60)
