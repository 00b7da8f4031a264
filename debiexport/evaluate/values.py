"""Types of values, and the constants that a program holds or refers to."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from debiexport.errors import BundleError
from debiexport.evaluate.blob import decode, read_blob
from debiexport.evaluate.dtypes import DTYPES, FORMAT_NAMES, STRING
from debiexport.evaluate.package import Package
from debiexport.evaluate.packing import packed_bytes
from debiexport.evaluate.protos import dtype_names
from debiexport.runtimes.base import Array

MAX_ELEMENTS = 2**30  # of a tensor; more could not be held in memory as float32


@dataclass(frozen=True)
class TensorType:
    """A tensor of a known shape.

    Attributes:
        dtype: a key of `DTYPES`, such as "fp16".
        shape: () is a scalar.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of the elements, packed."""
        return packed_bytes(self.size, DTYPES[self.dtype].bits)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """What holds an element in memory."""
        return DTYPES[self.dtype].numpy

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class ListType:
    """A list of tensors of one type, such as the class names of a classifier."""

    element: TensorType
    length: int


@dataclass(frozen=True)
class DictionaryType:
    """A dictionary, such as the probabilities of a classifier by name."""

    key: TensorType
    value: TensorType


ValueType = TensorType | ListType | DictionaryType


@dataclass(frozen=True)
class BlobReference:
    """Where a constant lies in a file of weights; see `read_blob`."""

    path: Path
    offset: int


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that the program holds, or that lies in a file of weights.

    Attributes:
        type: what the program declares.
        source: the value, or where it is.
    """

    type: TensorType | ListType
    source: Array | BlobReference

    def array(self) -> Array:
        """The value, in its declared shape; one-dimensional if it is a list.

        Raises:
            BundleError: the file of weights is damaged or not that of the program.
        """
        if not isinstance(self.source, BlobReference):
            return self.source
        assert isinstance(self.type, TensorType)
        flat = read_blob(self.source.path, self.source.offset, self.type.dtype, self.type.size)
        return flat.reshape(self.type.shape)


def read_type(message: Any, name: str) -> ValueType:
    """A type from its message.

    Args:
        message: ValueType of the file format.
        name: of the value, for messages.

    Raises:
        BundleError: the shape is not static or is absurd, or the kind of type is unknown.
    """
    kind = message.WhichOneof("type")
    if kind == "tensorType":
        return _tensor_type(message.tensorType, name)
    if kind == "listType":
        return ListType(_element(message.listType.type, name), _dimension(message.listType.length, name))
    if kind == "dictionaryType":
        types = message.dictionaryType
        return DictionaryType(_element(types.keyType, name), _element(types.valueType, name))
    if kind == "stateType":
        raise BundleError(f"{name!r} is a state that lasts from run to run: export the model without states")
    raise BundleError(f"{name!r} has a type of the kind {kind}, which is unknown here: export it again")


def read_constant(message: Any, package: Package, name: str) -> Constant:
    """A constant from its message; large ones stay where they are.

    Args:
        message: Value of the file format.
        package: whose files of weights may be named.
        name: of the value, for messages.

    Raises:
        BundleError: the value is not of its declared type, or lies in a file that is missing.
    """
    declared = read_type(message.type, name)
    if isinstance(declared, DictionaryType):
        raise BundleError(f"{name!r} is a constant dictionary, which no operation takes: export it again")
    if message.WhichOneof("value") == "blobFileValue":
        blob = message.blobFileValue
        if isinstance(declared, ListType) or declared.dtype == STRING:
            raise BundleError(f"{name!r} keeps text in a file of weights, which cannot be: export it again")
        return Constant(declared, BlobReference(package.weight_file(blob.fileName), blob.offset))
    immediate = message.immediateValue
    if isinstance(declared, TensorType):
        return Constant(declared, _tensor(immediate.tensor, declared, name))
    items = immediate.list.values
    if len(items) != declared.length or declared.element.shape:
        raise BundleError(f"{name!r} is a list of {len(items)} values, not {declared.length} scalars: export it again")
    values = [_tensor(item.immediateValue.tensor, declared.element, name) for item in items]
    return Constant(declared, np.array(values, DTYPES[declared.element.dtype].numpy))


def _tensor(message: Any, declared: TensorType, name: str) -> Array:
    """A value that lies in the program itself."""
    field = message.WhichOneof("value")
    values: Any = getattr(message, field).values if field else ()
    kind, count = DTYPES[declared.dtype], declared.size
    if field == "bytes":
        if kind.bits == 0 or len(values) != packed_bytes(count, kind.bits):
            raise _wrong_count(name, f"{len(values)} bytes", declared)
        return decode(np.frombuffer(values, np.uint8), declared.dtype, count).reshape(declared.shape)
    if len(values) != count or (field == "strings") != (declared.dtype == STRING and count > 0):
        raise _wrong_count(name, f"{len(values)} {field or 'values'}", declared)
    try:
        return np.array(list(values), None if declared.dtype == STRING else kind.numpy).reshape(declared.shape)
    except (OverflowError, ValueError) as error:  # too large, or no number where an integer has to be
        raise BundleError(f"{name!r} has numbers that {declared.dtype} cannot hold: export it again") from error


def _tensor_type(message: Any, name: str) -> TensorType:
    number = message.dataType
    dtype = FORMAT_NAMES.get(dtype_names().get(number, ""))
    if dtype is None:
        known = dtype_names().get(number, f"of number {number}")
        raise BundleError(f"{name!r} has elements {known}, which are unknown here: export it in another precision")
    shape = tuple(_dimension(dimension, name) for dimension in message.dimensions)
    if message.rank != len(shape):
        raise BundleError(f"{name!r} has rank {message.rank} but {len(shape)} dimensions: export it with fixed shapes")
    if prod(max(size, 1) for size in shape) > MAX_ELEMENTS:  # also where one size is 0: the others are real
        raise BundleError(f"{name!r} of shape {list(shape)} has over {MAX_ELEMENTS} elements: export it again")
    return TensorType(dtype, shape)


def _dimension(message: Any, name: str) -> int:
    if message.WhichOneof("dimension") != "constant":
        raise BundleError(f"{name!r} has a shape that is not fixed: export the model with fixed shapes")
    return int(message.constant.size)


def _element(message: Any, name: str) -> TensorType:
    declared = read_type(message, name)
    if not isinstance(declared, TensorType):
        raise BundleError(f"{name!r} is a list or dictionary of lists, which is unknown here: export it again")
    return declared


def _wrong_count(name: str, found: str, declared: TensorType) -> BundleError:
    return BundleError(f"{name!r} is declared as {declared} but holds {found}: the model is damaged, export it again")
