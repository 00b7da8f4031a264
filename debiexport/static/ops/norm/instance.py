"""LayerNorm over the last axis, written as the instance norm of single rows where no affine follows.

It is the same formula; ONNX Runtime's kernel for it is up to twice as fast on a CPU. With an affine it would
need two more operations, so that LayerNorm stays.
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
        if self.weight is not None:
            return F.layer_norm(x, (self.channels,), self.weight, self.bias, self.eps)
        rows = F.instance_norm(x.reshape(-1, 1, self.channels), eps=self.eps)
        return rows.reshape(-1, *x.shape[1:])
