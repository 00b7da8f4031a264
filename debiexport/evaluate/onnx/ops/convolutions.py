"""Convolutions over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from debiexport.evaluate.onnx.ops.arguments import Outputs, bounded
from debiexport.evaluate.onnx.ops.windows import pad_last, windows

Tensor = torch.Tensor
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    /,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The convolution of `x` (N, C, ...) with `weight` (out, C / group, ...)."""
    kernel = _kernel(weight, kernel_shape)
    over = windows(list(x.shape[2:]), kernel, auto_pad=auto_pad, strides=strides, pads=pads, dilations=dilations)
    around = [before for before, after in over.pairs if before == after]
    if len(around) != len(kernel):  # torch pads both sides alike
        x, around = over.pad(x, 0.0), [0] * len(kernel)
    return _CONV[len(kernel)](x, weight, bias, over.strides, around, over.dilations, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    /,
    *,
    outputs: Outputs,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """The transposed convolution of `x` (N, C, ...) with `weight` (C, out / group, ...).

    Every element of `x` adds the kernel, scaled, to the result; the padding is what is then cut off. Padding
    that follows from the shape of the result is not known here.
    """
    if auto_pad not in ("NOTSET", "VALID"):
        raise ValueError(f"the padding {auto_pad}")
    kernel = _kernel(weight, kernel_shape)
    rank = len(kernel)
    over = windows([1] * rank, kernel, auto_pad=auto_pad, strides=strides, pads=pads, dilations=dilations)
    more = output_padding or [0] * rank
    sizes = [
        (size - 1) * step + (width - 1) * spread + 1 + extra
        for size, step, width, spread, extra in zip(
            x.shape[2:], over.strides, kernel, over.dilations, more, strict=True
        )
    ]
    ends = [(-before, extra - after) for (before, after), extra in zip(over.pairs, more, strict=True)]
    cut = [size - before - after for size, (before, after) in zip(sizes, over.pairs, strict=True)]
    bounded([x.shape[0], weight.shape[1] * group, *cut], outputs)
    whole = _TRANSPOSED[rank](x, weight, None, over.strides, 0, 0, group, over.dilations)
    result = pad_last(whole, ends, 0.0)
    return result if bias is None else result + bias.reshape(1, -1, *([1] * rank))


def _kernel(weight: Tensor, kernel_shape: list[int] | None) -> list[int]:
    kernel = list(weight.shape[2:])
    if len(kernel) not in _CONV or (kernel_shape is not None and kernel_shape != kernel):
        raise ValueError(f"a kernel {kernel_shape or ''} with a weight {list(weight.shape)}")
    return kernel


OPERATIONS: dict[str, Callable[..., Any]] = {"Conv": conv, "ConvTranspose": conv_transpose}
