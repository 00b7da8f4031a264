"""Reductions along axes, all axes by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from debiexport.evaluate.ops.arguments import ints

Tensor = torch.Tensor
Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(reduce: Reduce) -> Callable[..., Tensor]:
    """An operation from a function of a tensor, axes that are not empty, and whether to keep them."""

    def apply(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
        chosen = list(range(x.ndim)) if axes is None else ints(axes)
        if not chosen:  # for torch no axes are all axes
            return reduce(x.unsqueeze(-1), [-1], False)
        return reduce(x, chosen, keep_dims is not None and bool(keep_dims))

    return apply


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return x.double().mean(axes, keep).trunc().to(x.dtype)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(find: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The index of an extreme along one axis, the first one of several."""

    def apply(
        x: Tensor, axis: Tensor | None = None, keep_dims: Tensor | None = None, output_dtype: str | None = None
    ) -> Tensor:
        return find(x, -1 if axis is None else int(axis), keep_dims is not None and bool(keep_dims))

    return apply


OPERATIONS: dict[str, Callable[..., Any]] = {
    "reduce_argmax": _arg(torch.argmax),
    "reduce_argmin": _arg(torch.argmin),
    "reduce_l1_norm": _reduction(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "reduce_l2_norm": _reduction(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "reduce_log_sum": _reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    "reduce_log_sum_exp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "reduce_mean": _reduction(_mean),
    "reduce_min": _reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "reduce_prod": _reduction(_prod),
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "reduce_sum_square": _reduction(lambda x, axes, keep: x.square().sum(axes, keep)),
}
