"""Everything as (N, C, H, W): norms, linear maps and softmax work on the channel axis, nothing is transposed.

This is how the Neural Engine of Apple's chips holds its tensors (Apple Machine Learning Research, "Deploying
Transformers on the Apple Neural Engine", 2022): channels on axis 1, positions on the last and longest axis, linear
maps as 1x1 convolutions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.static.ops.layout.base import Layout, Size
from debiexport.static.ops.positions import AgentDisplacements


class ChannelsLayout(Layout):
    """See the module."""

    attention_format = "nchw"
    positions = AgentDisplacements

    def to_attention(self, x: Tensor) -> Tensor:
        """The stream as it is."""
        return x

    def to_stream(self, x: Tensor) -> Tensor:
        """The map as it is."""
        return x

    def attention_pointwise(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """A 1x1 convolution."""
        return self.pointwise(weight, bias)

    def pad(self, x: Tensor, size: Size, padded: Size) -> Tensor:
        """See `Layout.pad`."""
        if size == padded:
            return x
        return F.pad(x, (0, padded[1] - size[1], 0, padded[0] - size[0]))

    def crop(self, x: Tensor, padded: Size, size: Size) -> Tensor:
        """See `Layout.crop`."""
        return x if padded == size else x[:, :, : size[0], : size[1]]

    def per_channel(self, values: Tensor) -> Tensor:
        """(C,) -> (1, C, 1, 1)"""
        return values.view(1, -1, 1, 1)

    def to_groups(self, x: Tensor, groups: int) -> Tensor:
        """(N, G*c, H, W) -> (N*G, c, H, W)"""
        return x if groups == 1 else x.reshape(-1, x.shape[1] // groups, *x.shape[2:])

    def from_groups(self, x: Tensor, groups: int) -> Tensor:
        """(N*G, 1, H, W) -> (N, G, H*W, 1)"""
        return x.reshape(-1, groups, x.shape[-2] * x.shape[-1], 1)

    def pool(self, x: Tensor) -> Tensor:
        """Mean over positions: (N, C, H, W) -> (N, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)

    def logits(self, x: Tensor) -> Tensor:
        """(N, classes, 1, 1) -> (N, classes)"""
        return x.flatten(1)
