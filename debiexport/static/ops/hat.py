"""Bilinear interpolation as hat functions: relu(1 - |t - i|) weighs pixel i at position t.

At most two neighbouring pixels have a weight above zero and they add up to one, so a product with
these weights is linear interpolation, without any data-dependent index.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pixels(n: int, dtype: torch.dtype) -> Tensor:
    """0, 1, … n-1 as floats: the pixel centres with align_corners=True."""
    return torch.arange(n, dtype=torch.float64).to(dtype)


def hat(t: Tensor, centres: Tensor) -> Tensor:
    """Weights of the pixels `centres` at the positions t; the two broadcast against each other."""
    return F.relu(1 - (t - centres).abs())
