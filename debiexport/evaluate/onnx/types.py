"""Types of tensors, as ONNX declares and infers them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import torch
from onnx import TensorProto

from debiexport.errors import BundleError
from debiexport.evaluate.rounding import holder as narrow_holder
from debiexport.evaluate.rounding import round_to
from debiexport.runtimes.base import Array

MAX_ELEMENTS = 2**30  # of a tensor; more could not be held in memory as float32
DOUBLE = "fp64"
DTYPES: dict[int, str] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: DOUBLE,
    TensorProto.BOOL: "bool",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
}
_FLOATS = ("fp16", "bf16", "fp32", DOUBLE)
_WIDE: dict[str, type[np.generic]] = {"fp16": np.float32, "bf16": np.float32, "uint16": np.int32, "uint32": np.int64}


@dataclass(frozen=True)
class TensorType:
    """A tensor.

    Attributes:
        dtype: a value of `DTYPES`, such as "fp16".
        shape: () is a scalar; None is a size that is known only after a run.
    """

    dtype: str
    shape: tuple[int | None, ...]

    @property
    def is_float(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return self.dtype in _FLOATS

    def admits(self, sizes: Iterable[int]) -> bool:
        """Whether a tensor of these sizes has the declared shape."""
        found = tuple(sizes)
        return len(found) == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(self.shape, found, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


def dtype_of(number: int, name: str) -> str:
    """The name of an element type.

    Args:
        number: of the type in the file format.
        name: of the tensor, for messages.

    Raises:
        BundleError: the type is not computed here.
    """
    if number not in DTYPES:
        known = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"number {number}"
        raise BundleError(f"{name!r} has elements of type {known}, which are not computed here: export it without them")
    return DTYPES[number]


def holder(dtype: str) -> torch.dtype:
    """The torch type that holds values of a type: float32 for the floating-point numbers but float64."""
    return torch.float64 if dtype == DOUBLE else narrow_holder(dtype)


def rounded(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """The values that a type would hold, in its `holder`; see `round_to`."""
    return tensor.to(torch.float64) if dtype == DOUBLE else round_to(tensor, dtype)


def held(tensor: TensorProto, name: str) -> torch.Tensor:
    """A constant as operations take it.

    Raises:
        BundleError: its type is not computed here, or its data are not those of its shape.
    """
    dtype = dtype_of(tensor.data_type, name)
    check_size(tensor.dims, name)
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # ValueError, TypeError and more, as the data are damaged
        raise BundleError(
            f"{name!r} does not hold the numbers of its shape: the file is damaged, export it again"
        ) from error
    return torch.from_numpy(np.array(array, _WIDE.get(dtype, array.dtype), order="C"))


def plain(tensor: torch.Tensor, dtype: str) -> Array:
    """A tensor for the caller, who may change it: floating-point numbers wide, integers in their own type."""
    array = np.array(tensor.numpy())
    return array.astype(dtype) if dtype in ("uint16", "uint32") else array


def check_size(sizes: Iterable[int], name: str) -> None:
    """Refuse a shape that is absurd.

    Raises:
        BundleError: it has a negative size, or more than `MAX_ELEMENTS` elements.
    """
    shape = list(sizes)
    if any(size < 0 for size in shape) or prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise BundleError(f"{name!r} has the shape {shape}, allowed are {MAX_ELEMENTS} elements: export it again")


def infer(model: onnx.ModelProto, symbol: str | None = None, batch: int | None = None) -> dict[str, TensorType]:
    """The type of every tensor, by strict inference.

    Args:
        model: whose inputs may have an unknown first axis.
        symbol: the name of that axis, if it has one.
        batch: its size, or None to leave it open.

    Raises:
        BundleError: types do not fit an operation, contradict what the file declares, or cannot be known.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    if batch is not None:
        for value in bound.graph.input:
            for dimension in value.type.tensor_type.shape.dim[:1]:
                if not dimension.HasField("dim_value"):
                    dimension.dim_value = batch
    graph = inferred(bound).graph
    known: dict[str, TensorType] = {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        known[value.name] = _type(value, symbol, batch)
    for tensor in graph.initializer:
        known[tensor.name] = TensorType(dtype_of(tensor.data_type, tensor.name), tuple(tensor.dims))
    for name in (name for node in graph.node for name in node.output if name):
        if name not in known:
            raise BundleError(f"the model does not say of which type {name!r} is, and it cannot be inferred")
    return known


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types that strict inference finds.

    Raises:
        BundleError: types do not fit an operation, or contradict what the file declares.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # InferenceError, or what a damaged attribute makes of it
        raise BundleError(f"the types of the model do not fit: {line(error)}; export it again") from error


def line(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(str(error).split())[:300]


def _type(value: onnx.ValueInfoProto, symbol: str | None, batch: int | None) -> TensorType:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise BundleError(f"{value.name!r} is no tensor but {kind}: export the model with tensors alone")
    tensor = value.type.tensor_type
    dtype = dtype_of(tensor.elem_type, value.name)
    if not tensor.HasField("shape"):
        raise BundleError(f"{value.name!r} has no known number of axes: export the model with fixed shapes")
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else batch if symbol and dim.dim_param == symbol else None
        for dim in tensor.shape.dim
    )
    check_size((size for size in shape if size is not None), value.name)
    return TensorType(dtype, shape)
