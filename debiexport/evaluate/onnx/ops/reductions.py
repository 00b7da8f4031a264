"""Reductions along axes, all axes by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from debiexport.evaluate.onnx.ops.arguments import axes_within, axis_within, ints

Tensor = torch.Tensor
Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(reduce: Reduce) -> Callable[..., Tensor]:
    """An operation from a function of a tensor, axes that are not empty, and whether to keep them."""

    def apply(x: Tensor, axes: Tensor | None = None, /, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        chosen = axes_within([] if axes is None else ints(axes), x.ndim)
        if not chosen and noop_with_empty_axes:
            return x
        if x.ndim == 0:  # torch has no axis to reduce
            return reduce(x.unsqueeze(0), [0], False)
        return reduce(x, chosen or list(range(x.ndim)), bool(keepdims))

    return apply


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return x.double().mean(axes, keep).trunc().to(x.dtype)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(extreme: Callable[[Tensor, int, bool], Tensor]) -> Callable[..., Tensor]:
    """The index of an extreme along one axis, of several the first one or the last one."""

    def apply(x: Tensor, /, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        place = axis_within(axis, x.ndim)
        ruler = torch.arange(x.shape[place]).reshape([-1 if i == place else 1 for i in range(x.ndim)])
        best = x == extreme(x, place, True)
        if select_last_index:
            return torch.where(best, ruler, -1).amax(place, bool(keepdims))
        return torch.where(best, ruler, x.shape[place]).amin(place, bool(keepdims))

    return apply


OPERATIONS: dict[str, Callable[..., Any]] = {
    "ArgMax": _arg(torch.amax),
    "ArgMin": _arg(torch.amin),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduction(_prod),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keep)),
}
