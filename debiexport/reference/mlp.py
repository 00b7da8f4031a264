"""The MLPs of DeBiFormer (with a depthwise conv) and of BiFormer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvMLP(nn.Module):
    """1x1 conv, residual depthwise 3x3, GELU, 1x1 conv on a map (N, C, H, W); DeBiFormer's MLP."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.linear1 = nn.Sequential(nn.Conv2d(channels, hidden, 1))
        self.dwc = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.linear2 = nn.Sequential(nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        t = self.linear1(x)
        return self.linear2(F.gelu(t + self.dwc(t)))  # type: ignore[no-any-return]


def linear_mlp(channels: int, ratio: int, *, with_gap: bool) -> nn.Sequential:
    """Linear, GELU, Linear on channels-last tokens; BiFormer's MLP.

    Args:
        with_gap: BiFormer T/S/B number their second Linear 3, the Swin-T layout 2.
    """
    gap: list[nn.Module] = [nn.Identity()] if with_gap else []
    return nn.Sequential(nn.Linear(channels, ratio * channels), *gap, nn.GELU(), nn.Linear(ratio * channels, channels))
