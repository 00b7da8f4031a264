"""LayerNorm over the last axis, as one operation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.static.weights import Weights


class LayerNorm(nn.Module):
    """(..., C) -> (..., C).

    Args:
        channels: C.
        eps: epsilon of the variance.
        weights: `weight` and `bias` (C,); without them the affine has been folded into a neighbour.
    """

    format = "nhwc"
    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, eps: float, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        # A scale is required by ONNX; ones stand where it has been folded.
        self.register_buffer("weight", weights.get("weight", torch.ones(channels, dtype=dtype)))
        self.register_buffer("bias", weights.get("bias", torch.zeros(channels, dtype=dtype)))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.channels,), self.weight, self.bias, self.eps)
