"""Positions of agents as they pass between slots."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Positions(NamedTuple):
    """Rows y and columns x of the agents, each (N, G, n, 1) in [-1, 1] with align_corners=True.

    Two tensors rather than one with a last axis of two: nobody has to take them apart again.
    """

    y: Tensor
    x: Tensor
