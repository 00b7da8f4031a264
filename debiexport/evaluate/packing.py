"""Integers of less than a byte, packed one after the other, least significant bit first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from debiexport.runtimes.base import Array


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` integers of `bits` bits take; the last byte may have bits to spare."""
    return -(-count * bits // 8)


def unpack(packed: npt.NDArray[np.uint8], bits: int, count: int, *, signed: bool = False) -> Array:
    """The integers in `packed`, one a byte.

    Args:
        packed: `packed_bytes(count, bits)` bytes.
        bits: of an integer, 1 to 8. An integer may lie across two bytes.
        count: of integers.
        signed: two's complement, so the result is int8 instead of uint8.
    """
    flat = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    values = np.packbits(flat, axis=1, bitorder="little")[:, 0] if count else np.zeros(0, np.uint8)
    if not signed:
        return values
    sign = np.uint8(1 << (bits - 1))
    return ((values ^ sign).astype(np.int16) - int(sign)).astype(np.int8)
