"""Arithmetic in a narrow type, as compute wide and round: what every judge of typed graphs does alike."""

from __future__ import annotations

import torch

_DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "bool": torch.bool,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
}
_RANGES = {"uint16": 2**16, "uint32": 2**32}
_NARROW = {"fp16", "bf16"}


def holder(dtype: str) -> torch.dtype:
    """The torch type that holds values of a type: float32 for every type of floating-point numbers.

    Raises:
        KeyError: the type is unknown.
    """
    held = _DTYPES[dtype]
    return torch.float32 if held.is_floating_point else held


def round_to(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """The values that a type would hold, in the torch type that holds it (see `holder`).

    Args:
        tensor: values of any type. float32 is rounded to the nearest number of a narrower type, ties to even;
            beyond its range it is infinite, and numbers below its normal ones are kept as subnormals. Floats
            become integers by dropping the fraction, and integers of another width by wrapping around.
        dtype: "fp16", "bf16", "fp32", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16" or "uint32".

    Raises:
        KeyError: the type is unknown.
    """
    wanted = holder(dtype)
    if dtype in _NARROW:
        return tensor.to(_DTYPES[dtype]).to(torch.float32)
    if dtype in _RANGES:
        return tensor.to(torch.int64).remainder(_RANGES[dtype]).to(wanted)
    return tensor.to(wanted)
