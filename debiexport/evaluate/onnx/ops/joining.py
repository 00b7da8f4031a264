"""Tensors put together and taken apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import Outputs, axis_within, ints

Tensor = torch.Tensor


def concat(*values: Tensor, axis: int) -> Tensor:
    """The tensors one after the other along `axis`."""
    return torch.cat(values, axis_within(axis, values[0].ndim))


def split(
    x: Tensor,
    sizes: Tensor | None = None,
    /,
    *,
    outputs: Outputs,
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    """Parts of the given sizes along `axis`, or as many as there are results, all but the last of equal size."""
    place = axis_within(axis, x.ndim)
    count = len(outputs) if num_outputs is None else num_outputs
    if sizes is not None:
        parts = ints(sizes)
    else:
        whole = x.shape[place]
        part = -(-whole // count)
        parts = [part] * (count - 1) + [whole - part * (count - 1)]
    return torch.split_with_sizes(x, parts, place)


OPERATIONS: dict[str, Callable[..., Any]] = {"Concat": concat, "Split": split}
