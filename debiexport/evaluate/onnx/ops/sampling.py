"""Samples of an image at given coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
# The names of the modes until opset 19, and from 20 on.
_OLD = {"bilinear": "bilinear", "nearest": "nearest", "bicubic": "bicubic"}
_NEW = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


def grid_sample(
    x: Tensor,
    grid: Tensor,
    /,
    *,
    opset: int,
    align_corners: int = 0,
    mode: str | None = None,
    padding_mode: str = "zeros",
) -> Tensor:
    """Samples of `x` (N, C, [D,] H, W) at `grid` (N, [D2,] H2, W2, 2 or 3), as (N, C, [D2,] H2, W2).

    Args:
        x: the images.
        grid: across first; -1 and 1 are the two ends of an axis.
        opset: which names of modes there are.
        align_corners: whether those ends are the centres of the outermost pixels or their edges.
        mode: linear, nearest (ties to the even pixel) or cubic, by the names of the opset; linear by default.
        padding_mode: what lies outside: "zeros", "border" (the edge) or "reflection".

    Raises:
        ValueError: the opset has no such mode, which other runtimes may take for another one.
    """
    modes = _NEW if opset >= 20 else _OLD
    chosen = next(iter(modes)) if mode is None else mode
    if chosen not in modes:
        raise ValueError(f"the mode {chosen!r}, in opset {opset} there are {', '.join(modes)}")
    return F.grid_sample(x, grid.to(x.dtype), modes[chosen], padding_mode, bool(align_corners))


OPERATIONS: dict[str, Callable[..., Any]] = {"GridSample": grid_sample}
