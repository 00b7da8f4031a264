"""The MLPs of the static network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.static.ops.layout import Layout
from debiexport.static.weights import Weights


class StaticConvMLP(nn.Module):
    """DeBiFormer's MLP on the stream; the residual depthwise convolution is one convolution."""

    def __init__(self, weights: Weights, layout: Layout) -> None:
        super().__init__()
        self.linear1 = layout.pointwise(weights["linear1.weight"], weights["linear1.bias"])
        kernel = weights["dwc.weight"]
        self.dwc = layout.conv(kernel, weights["dwc.bias"], padding=1, groups=kernel.shape[0])
        self.linear2 = layout.pointwise(weights["linear2.weight"], weights["linear2.bias"])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.dwc(self.linear1(x))))  # type: ignore[no-any-return]


class StaticLinearMLP(nn.Module):
    """BiFormer's MLP on what attention reads."""

    def __init__(self, weights: Weights, layout: Layout) -> None:
        super().__init__()
        self.linear1 = layout.attention_pointwise(weights["linear1.weight"], weights["linear1.bias"])
        self.linear2 = layout.attention_pointwise(weights["linear2.weight"], weights["linear2.bias"])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x)))  # type: ignore[no-any-return]
