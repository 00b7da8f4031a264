"""Constants in a file of weights.

A header of 64 bytes (u32 number of blobs, u32 version 2, zeros) is followed by blobs. The program points to
the record of a blob, 64 bytes that begin with

    u32 0xDEADBEEF | u32 type | u64 bytes of data | u64 offset of the data | u64 bits of padding

all little-endian. The types are numbered apart from those of the program, see `TYPES`.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from debiexport.errors import BundleError
from debiexport.evaluate.dtypes import DTYPES
from debiexport.evaluate.packing import packed_bytes, unpack
from debiexport.runtimes.base import Array

# Number of a type in a record. Those of types that no constant has here (5, 16, 17) are left out.
TYPES = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}
_SENTINEL, _VERSION = 0xDEADBEEF, 2
_HEADER, _RECORD, _SIZE = struct.Struct("<II"), struct.Struct("<IIQQQ"), 64


def read_blob(path: Path, offset: int, dtype: str, count: int) -> Array:
    """The constant whose record lies at `offset`, flat; integers of less than a byte come one a byte.

    Args:
        path: the file of weights.
        offset: of the record, from the start of the file.
        dtype: the type that the program declares, a key of `DTYPES`.
        count: the number of elements that the program declares.

    Raises:
        BundleError: the file is damaged, the offset points at no record, or the record's type or size is not
            the declared one. Nothing is read before its size is checked.
    """
    where = f"{path.name}, offset {offset},"
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < _SIZE:
                raise BundleError(f"{path.name} has {size} bytes, less than its header: copy the package again")
            file.seek(0)
            _, version = _HEADER.unpack(file.read(_HEADER.size))
            if version != _VERSION:
                raise BundleError(f"{path.name} has version {version}, known is {_VERSION}: export it again")
            if not _SIZE <= offset <= size - _SIZE:
                raise BundleError(f"{where} lies outside its {size} bytes: copy the package again, or export again")
            file.seek(offset)
            sentinel, code, length, start, padding = _RECORD.unpack(file.read(_RECORD.size))
            if sentinel != _SENTINEL:
                raise BundleError(f"{where} holds no record of a constant: the model and its weights differ")
            if TYPES.get(code) != dtype:
                found = TYPES.get(code, f"type {code}")
                raise BundleError(f"{where} holds {found}, the model declares {dtype}: export it again")
            bits = DTYPES[dtype].bits
            if length != packed_bytes(count, bits) or (bits < 8 and length * 8 - padding != count * bits):
                raise BundleError(f"{where} holds {length} bytes, not {count} numbers of {dtype}: export it again")
            if start > size or length > size - start:
                raise BundleError(f"{where} points past the end of the file, {size} bytes: copy the package again")
            file.seek(start)
            data = np.frombuffer(file.read(length), np.uint8)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    return decode(data, dtype, count)


def decode(data: Array, dtype: str, count: int) -> Array:
    """`count` numbers of a type from their bytes, little-endian."""
    kind = DTYPES[dtype]
    if kind.bits < 8:
        return unpack(data, kind.bits, count, signed=dtype.startswith("int"))
    return data.view(kind.numpy.newbyteorder("<")).astype(kind.numpy, copy=False)
