"""Plain torch layers from given weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def convolution(
    weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Conv2d:
    """A Conv2d of weight (out, in / groups, k, k)."""
    out, per_group, kernel, _ = weight.shape
    layer = nn.Conv2d(
        per_group * groups, out, kernel, stride=stride, padding=padding, groups=groups, bias=bias is not None,
        dtype=weight.dtype, device="meta",
    )  # fmt: skip
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


class TokenLinear(nn.Linear):
    """A Linear of the last axis, done as one product of two matrices.

    Runtimes turn a product of higher rank into just this, with a reshape on each side that nobody
    merges; here the reshapes are in the graph, and its passes merge them with their neighbours.
    """

    def forward(self, x: Tensor) -> Tensor:
        flat = F.linear(x.reshape(-1, self.in_features), self.weight, self.bias)
        return flat.reshape(-1, *x.shape[1:-1], self.out_features)


def linear(weight: Tensor, bias: Tensor | None) -> TokenLinear:
    """A Linear of weight (out, in)."""
    layer = TokenLinear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
