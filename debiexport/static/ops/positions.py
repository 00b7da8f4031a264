"""Positions of agents as they pass between slots."""

from __future__ import annotations

from torch import Tensor

Positions = Tensor
"""(N, G, n, 2): column x and row y of each agent in [-1, 1] with align_corners=True, as GridSample takes them."""
