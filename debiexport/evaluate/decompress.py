"""Compressed constants, decompressed: the operations constexpr_*, in NumPy.

Products are computed in float32 and rounded to the type of the scales. Arguments bear the names of the file
format; a ValueError says that they do not fit each other.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2, prod

import numpy as np

from debiexport.evaluate.packing import packed_bytes, unpack
from debiexport.runtimes.base import Array


def affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> tuple[Array]:
    """`scale * (quantized_data - zero_point)`; vectors lie along `axis`."""
    shape = [1] * quantized_data.ndim
    shape[int(axis)] = -1
    centred = quantized_data.astype(np.float32) - zero_point.astype(np.float32).reshape(shape)
    return (_rounded(centred * scale.astype(np.float32).reshape(shape), scale),)


def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> tuple[Array]:
    """`scale * (data - offset)`, where every number of `scale` and `offset` serves a block of equal size."""
    centred = data.astype(np.float32)
    if offset is not None:
        centred = centred - _spread(offset.astype(np.float32), data.shape)
    return (_rounded(centred * _spread(scale.astype(np.float32), data.shape), scale),)


def lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None
) -> tuple[Array]:
    """Numbers of a table by their indices.

    Args:
        indices: packed bytes where `shape` is given (until iOS 17), else one index an element.
        lut: (entries) with `shape`; else (groups of each axis..., entries, vector).
        shape: of the result.
        vector_axis: the axis along which the vectors of the table are laid out.
    """
    if shape is None:
        return (_lookup(indices, lut, vector_axis),)
    dense = tuple(int(size) for size in shape)
    bits = int(log2(lut.size))
    _demand(indices.size == packed_bytes(prod(dense), bits), "as many indices as elements")
    return (lut[unpack(indices, bits, prod(dense))].reshape(dense),)


def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> tuple[Array]:
    """Zero but where the mask is set.

    Args:
        nonzero_data: the other numbers, in order.
        mask: packed bits where `shape` is given (until iOS 17), else one an element.
        shape: of the result.
    """
    if shape is not None:
        dense = tuple(int(size) for size in shape)
        _demand(mask.size == packed_bytes(prod(dense), 1), "as many bits in the mask as elements")
        mask = unpack(mask, 1, prod(dense)).reshape(dense)
    return (_scatter(nonzero_data, mask),)


def lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None
) -> tuple[Array, Array]:
    """A mask and the numbers where it is set, these from a table; see `lut_to_dense`."""
    dense = _lookup(_scatter(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1 and vector_axis is not None:
        mask = np.repeat(mask, lut.shape[-1], axis=int(vector_axis))
    return mask, dense[mask != 0]


def sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """A mask and the numbers where it is set, scaled; see `blockwise_shift_scale`."""
    (dense,) = blockwise_shift_scale(_scatter(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def cast(source_val: Array, output_dtype: Array) -> tuple[Array]:
    """A constant in another type; the format knows fp16 to fp32 only."""
    _demand(str(output_dtype) == "fp32", "fp32 as the type")
    return (source_val.astype(np.float32),)


# What an operation's type calls; each gives as many arrays as the operation has outputs.
DECOMPRESSORS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": sparse_to_dense,
}


def _lookup(indices: Array, lut: Array, vector_axis: Array | None) -> Array:
    groups, vector = lut.shape[:-2], lut.shape[-1]
    _demand(len(groups) == indices.ndim, "a table of two more axes than the indices")
    blocks = np.ix_(*(_blocks(size, count) for size, count in zip(indices.shape, groups, strict=True)))
    found = np.asarray(lut[(*blocks, indices)])
    if vector == 1:
        return found[..., 0]
    _demand(vector_axis is not None, "an axis for the vectors")
    assert vector_axis is not None
    axis = int(vector_axis) % indices.ndim
    shape = list(indices.shape)
    shape[axis] *= vector
    return np.moveaxis(found, -1, axis + 1).reshape(shape)


def _spread(blocks: Array, shape: tuple[int, ...]) -> Array:
    """One number a block as one number an element."""
    _demand(blocks.ndim == len(shape), "as many axes as the data")
    return np.asarray(blocks[np.ix_(*(_blocks(size, count) for size, count in zip(shape, blocks.shape, strict=True)))])


def _blocks(size: int, count: int) -> Array:
    """The block that each of `size` elements belongs to."""
    _demand(count > 0 and size % count == 0, "blocks of equal size")
    return np.arange(size) // max(size // count, 1)


def _scatter(values: Array, mask: Array) -> Array:
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask != 0] = values
    return dense


def _rounded(product: Array, scale: Array) -> Array:
    with np.errstate(over="ignore"):
        return product.astype(scale.dtype)


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"a compressed constant needs {what}")
