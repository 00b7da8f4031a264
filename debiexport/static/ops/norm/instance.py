"""LayerNorm over the last axis, written as the instance norm of single rows.

It is the same formula; ONNX Runtime's kernel for it is up to twice as fast on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.static.weights import Weights


class InstanceNorm(nn.Module):
    """(..., C) -> (..., C); arguments as of `layernorm.LayerNorm`."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, channels: int, eps: float, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.register_buffer("weight", weights.get("weight"))
        self.register_buffer("bias", weights.get("bias"))

    def forward(self, x: Tensor) -> Tensor:
        rows = F.instance_norm(x.reshape(-1, 1, self.channels), eps=self.eps)
        normed = rows.reshape(-1, *x.shape[1:])
        return normed if self.weight is None or self.bias is None else normed * self.weight + self.bias
