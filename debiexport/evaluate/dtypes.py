"""The element types of a program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Dtype:
    """An element type.

    Attributes:
        numpy: what holds an element in memory; integers of less than a byte take one.
        bits: of an element in a file.
    """

    numpy: np.dtype[np.generic]
    bits: int


def _of(numpy: npt.DTypeLike, bits: int | None = None) -> Dtype:
    dtype: np.dtype[np.generic] = np.dtype(numpy)
    return Dtype(dtype, dtype.itemsize * 8 if bits is None else bits)


STRING = "string"
DTYPES = {
    "fp16": _of(np.float16),
    "fp32": _of(np.float32),
    "fp64": _of(np.float64),
    "bool": _of(np.bool_),
    "int4": _of(np.int8, 4),
    "int8": _of(np.int8),
    "int16": _of(np.int16),
    "int32": _of(np.int32),
    "int64": _of(np.int64),
    "uint1": _of(np.uint8, 1),
    "uint2": _of(np.uint8, 2),
    "uint3": _of(np.uint8, 3),
    "uint4": _of(np.uint8, 4),
    "uint6": _of(np.uint8, 6),
    "uint8": _of(np.uint8),
    "uint16": _of(np.uint16),
    "uint32": _of(np.uint32),
    "uint64": _of(np.uint64),
    STRING: _of(np.str_, 0),
}
# Names of the file format, for example FLOAT16 or UINT4.
FORMAT_NAMES = {
    "FLOAT16": "fp16",
    "FLOAT32": "fp32",
    "FLOAT64": "fp64",
    "BOOL": "bool",
    "STRING": STRING,
    **{name.upper(): name for name in DTYPES if "int" in name},
}


def is_float(dtype: str) -> bool:
    """Whether a type is of floating-point numbers."""
    return dtype.startswith("fp")
