"""numpy's names of types, and Triton's."""

from __future__ import annotations

from debiexport.errors import BundleError

TRITON = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
}
"""numpy's name -> that of the protocol."""


def protocol_type(dtype: str) -> str:
    """The protocol's name of a type of numpy, as "FP32".

    Raises:
        BundleError: it has none.
    """
    if dtype not in TRITON:
        raise BundleError(f"the protocol has no type for {dtype!r}: export the model with {', '.join(TRITON)}")
    return TRITON[dtype]


def config_type(dtype: str) -> str:
    """The name of a type of numpy in a model configuration, as "TYPE_FP32"; see `protocol_type`."""
    return f"TYPE_{protocol_type(dtype)}"
