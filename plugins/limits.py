"""What both kernels are bound by, and how their sizes are counted and shown."""

from __future__ import annotations

from collections.abc import Sequence

ELEMENT_BYTES = {"fp16": 2, "fp32": 4}
MAX_SHARED_MEMORY_BYTES = 48 * 1024  # of a program, on every GPU and without asking for more
MAX_IMAGE_ELEMENTS = 2**31 - 1  # of a map of one image: the kernels count them in 32 bits
MAX_GRID = 65535  # CUDA's, of the second and third axis
HEAD_WIDTHS = (16, 32, 64, 128)
MATRIX_SIDE = 16  # the least that a matrix product takes


def power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def shown(shape: Sequence[int]) -> str:
    """A shape for a message."""
    return f"({', '.join(map(str, shape))})"
