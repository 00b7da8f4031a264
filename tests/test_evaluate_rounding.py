from __future__ import annotations

import numpy as np
import pytest
import torch

from debiexport.evaluate.rounding import holder, round_to


def test_every_fp16_number_is_kept() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    rounded = round_to(torch.from_numpy(every.astype(np.float32)), "fp16")
    assert rounded.dtype == torch.float32
    np.testing.assert_array_equal(rounded.numpy(), every.astype(np.float32))


def test_fp16_rounds_to_nearest_and_ties_to_even() -> None:
    """Between each two neighbours, subnormals and the step to infinity included."""
    low = np.arange(0x7C00, dtype=np.uint16)  # all finite numbers from 0 up
    below = low.view(np.float16).astype(np.float64)
    above = np.append(below[1:], 65536.0)  # what would follow the largest number
    up = np.append(below[1:], np.inf)
    middle = (below + above) / 2
    even = np.where(low % 2 == 0, below, up)
    for sign in (1, -1):
        for values, wanted in (
            (middle, even),
            (np.nextafter(middle.astype(np.float32), np.float32(0)), below),
            (np.nextafter(middle.astype(np.float32), np.float32(np.inf)), up),
        ):
            rounded = round_to(torch.from_numpy((sign * values).astype(np.float32)), "fp16")
            np.testing.assert_array_equal(rounded.numpy(), (sign * wanted).astype(np.float32))


def test_fp16_special_values() -> None:
    rounded = round_to(torch.tensor([torch.inf, -torch.inf, torch.nan, 1e9, -0.0, 65519.99, 65520.0]), "fp16").numpy()
    np.testing.assert_array_equal(rounded, [np.inf, -np.inf, np.nan, np.inf, 0, 65504, np.inf])
    assert np.signbit(rounded[4])


def test_bf16_keeps_eight_bits() -> None:
    rounded = round_to(torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 3e38]), "bf16")
    assert rounded.dtype == torch.float32
    assert rounded.tolist() == [1.0, 1 + 2**-6, pytest.approx(3e38, rel=2**-8)]


def test_fp32_is_unchanged() -> None:
    values = torch.randn(100)
    assert round_to(values, "fp32") is values


def test_integers_drop_fractions_and_wrap() -> None:
    assert round_to(torch.tensor([1.9, -1.9]), "int32").tolist() == [1, -1]
    assert round_to(torch.tensor([2**31, -1]), "int32").tolist() == [-(2**31), -1]
    assert round_to(torch.tensor([300, -1]), "uint8").tolist() == [44, 255]
    assert round_to(torch.tensor([200]), "int8").tolist() == [-56]
    assert round_to(torch.tensor([70000, -1]), "uint16").tolist() == [4464, 65535]
    assert round_to(torch.tensor([-1]), "uint32").tolist() == [2**32 - 1]
    assert round_to(torch.tensor([0.0, 0.5, -2.0]), "bool").tolist() == [False, True, True]


@pytest.mark.parametrize(
    "dtype", ["fp16", "bf16", "fp32", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16"]
)
def test_results_are_in_their_holder(dtype: str) -> None:
    assert round_to(torch.tensor([1.0]), dtype).dtype == holder(dtype)


def test_unknown_type() -> None:
    with pytest.raises(KeyError):
        round_to(torch.zeros(1), "fp8")
