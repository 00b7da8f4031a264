"""Residual stream as (N, C, H, W); norms read it as (N, H, W, C), and attention gives such maps.

Convolutions of any kind, the projections to queries, keys and values among them, read the stream as it lies.
The way to maps and back is a transpose of two axes (C and H*W), the cheapest there is.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.static.layers import linear
from debiexport.static.ops.layout.base import Layout, Size
from debiexport.static.ops.positions import AgentPositions


class NCHWLayout(Layout):
    """See the module."""

    attention_format = "nhwc"
    positions = AgentPositions

    def to_attention(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H, W, C)"""
        return x.permute(0, 2, 3, 1)

    def to_stream(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, C, H, W)"""
        return x.permute(0, 3, 1, 2)

    def attention_pointwise(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """A linear map (out, in) of the last axis."""
        return linear(weight, bias)

    def pad(self, x: Tensor, size: Size, padded: Size) -> Tensor:
        """See `Layout.pad`."""
        if size == padded:
            return x
        return F.pad(x, (0, 0, 0, padded[1] - size[1], 0, padded[0] - size[0]))

    def crop(self, x: Tensor, padded: Size, size: Size) -> Tensor:
        """See `Layout.crop`."""
        return x if padded == size else x[:, : size[0], : size[1]]

    def per_channel(self, values: Tensor) -> Tensor:
        """(C,), as it is."""
        return values

    def to_groups(self, x: Tensor, groups: int) -> Tensor:
        """(N, G*c, H, W) -> (N, H*W, G, c)"""
        return self.to_attention(x).reshape(-1, x.shape[-2] * x.shape[-1], groups, x.shape[1] // groups)

    def from_groups(self, x: Tensor, groups: int) -> Tensor:
        """(N, H*W, G, 1) -> (N, G, H*W, 1)"""
        return x.transpose(1, 2)

    def pool(self, x: Tensor) -> Tensor:
        """Mean over positions: stream -> (N, C)."""
        return x.mean((2, 3))

    def logits(self, x: Tensor) -> Tensor:
        """(N, classes), as it is."""
        return x
