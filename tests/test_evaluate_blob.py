from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluate_packages import quiet

from debiexport.errors import BundleError
from debiexport.evaluate.blob import TYPES, read_blob
from debiexport.evaluate.dtypes import DTYPES
from debiexport.evaluate.packing import packed_bytes, unpack

with quiet():
    from coremltools.libmilstoragepython import _BlobStorageWriter

COUNT = 13
RECORD = struct.Struct("<IIQQQ")


def _values(dtype: str) -> np.ndarray:
    """Every corner of a type: its smallest and largest numbers, and some between."""
    if dtype.startswith("fp"):
        return np.linspace(-3, 3, COUNT).astype(DTYPES[dtype].numpy)
    bits, signed = DTYPES[dtype].bits, dtype.startswith("int")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return np.linspace(low, high, COUNT).round().clip(low, high).astype(DTYPES[dtype].numpy)


def _write(path: Path, dtypes: list[str]) -> dict[str, int]:
    """A file of weights from coremltools' own writer, and the offsets of its records."""
    writer = _BlobStorageWriter(str(path))
    offsets = {}
    for dtype in dtypes:
        values = _values(dtype)
        name = {"fp16": "fp16", "fp32": "float"}.get(dtype, dtype)
        written = values.view(np.uint16) if dtype == "fp16" else values
        offsets[dtype] = getattr(writer, f"write_{name}_data")(written)
    del writer  # it writes the header last
    return offsets


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    path = tmp_path_factory.mktemp("evaluate_blob") / "weight.bin"
    return path, _write(path, list(TYPES.values()))


@pytest.fixture
def damaged(written: tuple[Path, dict[str, int]], tmp_path: Path) -> tuple[Path, bytearray, int]:
    """A path to write to, the bytes of a file, and the offset of its fp16 record."""
    path, offsets = written
    return tmp_path / "weight.bin", bytearray(path.read_bytes()), offsets["fp16"]


@pytest.mark.parametrize("dtype", TYPES.values())
def test_reads_what_coremltools_writes(written: tuple[Path, dict[str, int]], dtype: str) -> None:
    path, offsets = written
    read = read_blob(path, offsets[dtype], dtype, COUNT)
    assert read.dtype == DTYPES[dtype].numpy
    np.testing.assert_array_equal(read, _values(dtype))


def test_least_significant_bits_come_first() -> None:
    packed = np.array([0b11100100, 0b01], np.uint8)
    assert unpack(packed, 2, 5).tolist() == [0, 1, 2, 3, 1]
    assert unpack(packed, 3, 3).tolist() == [0b100, 0b100, 0b111]  # the third lies across the bytes
    assert unpack(np.array([0xF8], np.uint8), 4, 2, signed=True).tolist() == [-8, -1]
    assert packed_bytes(5, 3) == 2
    assert unpack(np.zeros(0, np.uint8), 6, 0).tolist() == []


Change = Callable[[bytearray, int], None]


def _field(index: int, value: int) -> Change:
    def change(content: bytearray, offset: int) -> None:
        fields = list(RECORD.unpack_from(content, offset))
        fields[index] = value
        RECORD.pack_into(content, offset, *fields)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_field(0, 0xDEADBEEE), "no record"),
        (_field(1, 2), "holds fp32"),
        (_field(1, 99), "holds type 99"),
        (_field(2, 24), "24 bytes, not 13 numbers"),
        (_field(2, 2**64 - 1), "not 13 numbers"),
        (_field(3, 2**64 - 1), "past the end"),
        (lambda content, offset: struct.pack_into("<I", content, 4, 1), "version 1"),
        (lambda content, offset: content.__delitem__(slice(offset + 70, None)), "past the end"),
        (lambda content, offset: content.__delitem__(slice(offset + 30, None)), "outside"),
        (lambda content, offset: content.__delitem__(slice(20, None)), "less than its header"),
        (lambda content, offset: content.clear(), "less than its header"),
    ],
)
def test_damage(
    damaged: tuple[Path, bytearray, int], change: Change, words: str, one_line: Callable[[BaseException], str]
) -> None:
    path, content, offset = damaged
    change(content, offset)
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read_blob(path, offset, "fp16", COUNT)
    assert words in one_line(caught.value)


@pytest.mark.parametrize("offset", [0, 10, 10**9, 2**63])
def test_offset_outside(written: tuple[Path, dict[str, int]], offset: int) -> None:
    with pytest.raises(BundleError, match="outside"):
        read_blob(written[0], offset, "fp16", COUNT)


def test_data_is_no_record(written: tuple[Path, dict[str, int]]) -> None:
    path, offsets = written
    with pytest.raises(BundleError, match="no record"):
        read_blob(path, offsets["fp16"] + 64, "fp16", COUNT)


def test_another_count(written: tuple[Path, dict[str, int]]) -> None:
    """Of small integers the padding says how many there are: 13 and 12 of 4 bits take 7 and 6 bytes, 14 take 7."""
    path, offsets = written
    for count in (12, 14):
        with pytest.raises(BundleError, match=f"not {count} numbers"):
            read_blob(path, offsets["int4"], "int4", count)
