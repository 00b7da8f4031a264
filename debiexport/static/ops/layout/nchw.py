"""Residual stream as (N, C, H, W); norms read it as (N, H, W, C), and attention gives such maps.

Convolutions of any kind, the projections to queries, keys and values among them, read the stream as it lies.
The way to maps and back is a transpose of two axes (C and H*W), the cheapest there is.
"""

from __future__ import annotations

from torch import Tensor, nn

from debiexport.static.layers import convolution, linear


class NCHWLayout:
    """See the module."""

    attention_format = "nhwc"

    def to_attention(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H, W, C)"""
        return x.permute(0, 2, 3, 1)

    def to_stream(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, C, H, W)"""
        return x.permute(0, 3, 1, 2)

    def conv(
        self, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> nn.Module:
        """A convolution of the stream."""
        return convolution(weight, bias, stride=stride, padding=padding, groups=groups)

    def pointwise(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """A linear map (out, in) of the stream's channels: here a 1x1 convolution."""
        return convolution(weight[:, :, None, None], bias)

    def attention_pointwise(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """A linear map (out, in) of the channels of what attention reads: here the last axis."""
        return linear(weight, bias)

    def pool(self, x: Tensor) -> Tensor:
        """Mean over positions: stream -> (N, C)."""
        return x.mean((2, 3))
