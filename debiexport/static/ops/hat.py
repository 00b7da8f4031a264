"""Bilinear interpolation as hat functions: relu(1 - |t - i|) weighs pixel i at position t.

At most two neighbouring pixels have a weight above zero and they add up to one, so a product with
these weights is linear interpolation, without any data-dependent index.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.static.ops.positions import Positions


def pixels(n: int, dtype: torch.dtype) -> Tensor:
    """0, 1, … n-1 as floats: the pixel centres with align_corners=True."""
    return torch.arange(n, dtype=torch.float64).to(dtype)


def hat(distance: Tensor) -> Tensor:
    """Weights of pixels at signed distances from a position."""
    return F.relu(1 - distance.abs())


class PixelWeights(nn.Module):
    """Weights of a map's columns and rows at the agents' positions.

    A position p in [-1, 1] lies at t = (p + 1) (size - 1) / 2. Both axes are done at once; where the map is
    not square, the shorter one gets pixels that no position reaches, and they are cut off.
    """

    scale: Tensor
    centres: Tensor

    def __init__(self, size: tuple[int, int], dtype: torch.dtype) -> None:
        """Args: size: (H, W) of the map."""
        super().__init__()
        self.height, self.width = size
        sides = torch.tensor([[self.width], [self.height]], dtype=torch.float64)
        scale = (sides - 1) / 2
        self.register_buffer("scale", scale.to(dtype))
        self.register_buffer("centres", (pixels(max(size), torch.float64) - scale).to(dtype))

    def forward(self, positions: Positions) -> tuple[Tensor, Tensor]:
        """-> columns (N, G, n, W) and rows (N, G, n, H)."""
        weights = hat(positions.unsqueeze(-1) * self.scale - self.centres)  # (N, G, n, 2, max(H, W))
        columns, rows = weights.unbind(-2)
        return columns[..., : self.width], rows[..., : self.height]


class BilinearWeights(nn.Module):
    """Weights of all pixels of a map at the agents' positions."""

    def __init__(self, size: tuple[int, int], dtype: torch.dtype) -> None:
        """Args: size: (H, W) of the map."""
        super().__init__()
        self.axes = PixelWeights(size, dtype)

    def forward(self, positions: Positions) -> Tensor:
        """-> (N, G, n, H*W)"""
        columns, rows = self.axes(positions)
        # An outer product: ONNX Runtime is slow at products that broadcast short rows against each other.
        weights: Tensor = (rows.unsqueeze(-1) @ columns.unsqueeze(-2)).flatten(-2)
        return weights
