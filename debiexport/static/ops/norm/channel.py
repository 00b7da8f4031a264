"""LayerNorm over the channel axis, written as the moments that Core ML's converter recognises as one operation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from debiexport.static.weights import Weights


class ChannelNorm(nn.Module):
    """(N, C, H, W) -> (N, C, H, W); arguments as of `layernorm.LayerNorm`.

    It has to be the reciprocal square root and a product: with a division or a variance in one call the converter keeps
    eight operations.
    """

    format = "nchw"
    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, channels: int, eps: float, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self.eps = eps
        for part in ("weight", "bias"):
            values = weights.get(part)
            self.register_buffer(part, None if values is None else values.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        out = centred * ((centred * centred).mean(1, keepdim=True) + self.eps).rsqrt()
        if self.weight is None or self.bias is None:
            return out
        return out * self.weight + self.bias
