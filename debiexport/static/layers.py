"""Plain torch layers from given weights."""

from __future__ import annotations

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


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear of weight (out, in)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
