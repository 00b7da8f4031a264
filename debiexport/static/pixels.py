"""Bytes to the network's input, inside the network.

`(x / 255 - mean) / std` is written as `x * scale + shift` with scale = 1 / (255 std) and shift = -mean / std,
computed in float64 and rounded once: equal to float32 rounding. Neither is folded into the first convolution:
that pads with zeros, which are zeros of the normalised image, so the shift cannot be moved past it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.cards import Preprocessing


class PixelInput(nn.Module):
    """Images (N, H, W, 3), RGB bytes -> (N, 3, H, W), normalised."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", (1 / (255 * std)).to(dtype))
        self.register_buffer("shift", (-mean / std).to(dtype))

    def forward(self, images: Tensor) -> Tensor:
        # The cast comes first: some runtimes take bytes at the input and nowhere else.
        return (images.to(self.scale.dtype) * self.scale + self.shift).permute(0, 3, 1, 2)
