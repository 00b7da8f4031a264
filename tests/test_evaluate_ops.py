"""Every operation against torch, and against what coremltools infers when it is built of constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluate_packages import ct, evaluate, mb, save

from debiexport.evaluate.decompress import DECOMPRESSORS
from debiexport.evaluate.ops.table import OPERATIONS

_RNG = np.random.default_rng(5)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _t(array: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(array))


IMAGE = _normal(2, 4, 7, 6)
LINE = _normal(2, 4, 9)
VOLUME = _normal(1, 2, 4, 5, 3)
KERNEL = _normal(6, 4, 3, 2)
DEPTHWISE = _normal(8, 1, 3, 3)
BIAS = _normal(6)
CHANNEL = _normal(4)
POSITIVE = np.abs(IMAGE) + np.float32(0.1)
UNIT = np.tanh(IMAGE)
NUMBERS = np.array([[7, -7, 3], [-3, 0, 5]], np.int32)
DIVISORS = np.array([[2, 2, -2], [-2, 4, 3]], np.int32)
TIED = np.array([[3, 1, 3, 2, 3], [0, 0, 0, 0, 1]], np.float32)
TRUTH, OTHER_TRUTH = np.array([[True, False, True]]), np.array([[True], [False]])
GRID = _RNG.uniform(-1.6, 1.6, (2, 5, 3, 2)).astype(np.float32)
ROWS, COLUMNS = np.array([2, 0, 2], np.int32), np.array([[1, 0], [3, 3]], np.int32)
ALONG = _RNG.integers(0, 7, (2, 4, 3, 6)).astype(np.int32)
CELLS = np.array([[0, 1], [1, 3], [1, 3]], np.int32)


@dataclass(frozen=True)
class Case:
    """An operation of constants.

    Attributes:
        name: begins with the operation's type.
        build: calls the builder.
        expected: the results of torch or NumPy; None leaves them to coremltools.
        inferred: whether coremltools' own results are right, where it has some.
    """

    name: str
    build: Callable[[], Any]
    expected: Callable[[], Any] | None = None
    inferred: bool = True


def _unary(name: str, reference: Callable[[torch.Tensor], torch.Tensor], x: np.ndarray = IMAGE) -> Case:
    return Case(name, lambda: getattr(mb, name)(x=x), lambda: reference(_t(x)))


def _binary(name: str, reference: Callable[..., Any], x: Any, y: Any, mark: str = "") -> Case:
    return Case(name + mark, lambda: getattr(mb, name)(x=x, y=y), lambda: reference(x, y))


ELEMENTWISE = [
    *(
        _unary(name, getattr(torch, name))
        for name in [
            "abs",
            "atan",
            "ceil",
            "cos",
            "cosh",
            "erf",
            "exp",
            "exp2",
            "floor",
            "round",
            "sign",
            "sin",
            "sinh",
            "square",
            "tan",
            "tanh",
        ]
    ),
    *(_unary(name, getattr(torch, name), UNIT) for name in ("acos", "asin", "atanh")),
    _unary("sqrt", torch.sqrt, POSITIVE),
    _unary("logical_not", torch.logical_not, TRUTH),
    _unary("identity", lambda x: x),
    *(
        _binary(name, reference, IMAGE, IMAGE[:1, :, :1])
        for name, reference in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("real_div", np.divide))
    ),
    *(_binary(name, getattr(np, name), IMAGE, CHANNEL[:1]) for name in ("maximum", "minimum")),
    *(
        _binary(name, getattr(np, name), NUMBERS, DIVISORS.clip(-2, 3))
        for name in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
    ),
    *(_binary(name, getattr(np, name), TRUTH, OTHER_TRUTH) for name in ("logical_and", "logical_or", "logical_xor")),
    _binary("pow", np.power, POSITIVE, CHANNEL[:1]),
    _binary("floor_div", np.floor_divide, IMAGE, np.float32(0.3)),
    _binary("floor_div", np.floor_divide, NUMBERS, DIVISORS, "_ints"),
    _binary("mod", np.mod, IMAGE, np.float32(-0.3)),
    _binary("mod", np.mod, NUMBERS, DIVISORS, "_ints"),
    _binary("add", np.add, NUMBERS, np.int32(2**31 - 1), "_wraps"),
    Case("real_div_ints", lambda: mb.real_div(x=NUMBERS, y=DIVISORS), lambda: np.trunc(NUMBERS / DIVISORS), False),
    Case("clip", lambda: mb.clip(x=IMAGE, alpha=-0.5, beta=0.7), lambda: np.clip(IMAGE, -0.5, 0.7)),
    Case("threshold", lambda: mb.threshold(x=IMAGE, alpha=0.2), lambda: np.maximum(IMAGE, np.float32(0.2))),
    Case("inverse", lambda: mb.inverse(x=POSITIVE, epsilon=0.5), lambda: 1 / (POSITIVE + 0.5)),
    Case("log", lambda: mb.log(x=POSITIVE, epsilon=0.5), lambda: np.log(POSITIVE + 0.5)),
    Case("rsqrt", lambda: mb.rsqrt(x=POSITIVE, epsilon=0.5), lambda: 1 / np.sqrt(POSITIVE + 0.5)),
    Case("cast", lambda: mb.cast(x=IMAGE * 3, dtype="int32"), lambda: (IMAGE * 3).astype(np.int32)),
    Case("cast_bool", lambda: mb.cast(x=NUMBERS, dtype="bool"), lambda: NUMBERS != 0),
    Case("cast_float", lambda: mb.cast(x=NUMBERS, dtype="fp32"), lambda: NUMBERS.astype(np.float32)),
    Case("cast_fp16", lambda: mb.cast(x=IMAGE, dtype="fp16"), lambda: IMAGE.astype(np.float16)),
    Case(
        "select",
        lambda: mb.select(cond=IMAGE > 0, a=IMAGE, b=-IMAGE[:1]),
        lambda: np.where(IMAGE > 0, IMAGE, -IMAGE[:1]),
    ),
]

ACTIVATIONS = [
    _unary("relu", torch.relu),
    _unary("relu6", lambda x: F.relu6(x), IMAGE * 5),
    _unary("sigmoid", torch.sigmoid),
    _unary("silu", F.silu),
    _unary("softplus", F.softplus),
    _unary("softsign", F.softsign),
    Case("gelu", lambda: mb.gelu(x=IMAGE), lambda: F.gelu(_t(IMAGE))),
    Case(
        "gelu_tanh",
        lambda: mb.gelu(x=IMAGE, mode="TANH_APPROXIMATION"),
        lambda: F.gelu(_t(IMAGE), approximate="tanh"),
    ),
    Case(
        "gelu_sigmoid",
        lambda: mb.gelu(x=IMAGE, mode="SIGMOID_APPROXIMATION"),
        lambda: _t(IMAGE) * torch.sigmoid(1.702 * _t(IMAGE)),
    ),
    Case("softmax", lambda: mb.softmax(x=IMAGE, axis=1), lambda: torch.softmax(_t(IMAGE), 1)),
    Case("elu", lambda: mb.elu(x=IMAGE, alpha=0.6), lambda: F.elu(_t(IMAGE), 0.6)),
    Case("leaky_relu", lambda: mb.leaky_relu(x=IMAGE, alpha=0.6), lambda: F.leaky_relu(_t(IMAGE), 0.6)),
    Case("prelu", lambda: mb.prelu(x=IMAGE, alpha=CHANNEL), lambda: F.prelu(_t(IMAGE), _t(CHANNEL))),
    Case(
        "clamped_relu",
        lambda: mb.clamped_relu(x=IMAGE, alpha=0.6, beta=0.5),
        lambda: torch.clamp(F.leaky_relu(_t(IMAGE), 0.6), max=0.5),
    ),
    Case("linear_activation", lambda: mb.linear_activation(x=IMAGE, alpha=0.6, beta=2.0), lambda: IMAGE * 0.6 + 2),
    Case("scaled_tanh", lambda: mb.scaled_tanh(x=IMAGE, alpha=0.6, beta=2.0), lambda: 0.6 * np.tanh(IMAGE * 2)),
    Case("sigmoid_hard", lambda: mb.sigmoid_hard(x=IMAGE, alpha=0.6, beta=0.1), lambda: (IMAGE * 0.6 + 0.1).clip(0, 1)),
    Case(
        "softplus_parametric",
        lambda: mb.softplus_parametric(x=IMAGE, alpha=CHANNEL, beta=CHANNEL),
        lambda: _t(CHANNEL)[:, None, None] * torch.log1p(torch.exp(_t(CHANNEL)[:, None, None] * _t(IMAGE))),
    ),
    Case("thresholded_relu", lambda: mb.thresholded_relu(x=IMAGE.copy(), alpha=0.3), lambda: IMAGE * (IMAGE >= 0.3)),
]


def _reduction(name: str, reference: Callable[..., Any]) -> list[Case]:
    return [
        Case(
            f"reduce_{name}_{mark}",
            lambda axes=axes, keep=keep: getattr(mb, f"reduce_{name}")(x=POSITIVE, axes=axes, keep_dims=keep),
            lambda axes=axes, keep=keep: reference(POSITIVE, tuple(axes or range(4)), keep),
        )
        for mark, axes, keep in (("some", [1, -1], False), ("kept", [2], True), ("all", None, False))
    ]


REDUCTIONS = [
    *_reduction("sum", lambda x, axes, keep: x.sum(axes, keepdims=keep)),
    *_reduction("mean", lambda x, axes, keep: x.mean(axes, keepdims=keep)),
    *_reduction("max", lambda x, axes, keep: x.max(axes, keepdims=keep)),
    *_reduction("min", lambda x, axes, keep: x.min(axes, keepdims=keep)),
    *_reduction("prod", lambda x, axes, keep: x.prod(axes, keepdims=keep)),
    *_reduction("l1_norm", lambda x, axes, keep: np.abs(x).sum(axes, keepdims=keep)),
    *_reduction("l2_norm", lambda x, axes, keep: np.sqrt((x**2).sum(axes, keepdims=keep))),
    *_reduction("sum_square", lambda x, axes, keep: (x**2).sum(axes, keepdims=keep)),
    *_reduction("log_sum", lambda x, axes, keep: np.log(x.sum(axes, keepdims=keep))),
    *_reduction("log_sum_exp", lambda x, axes, keep: torch.logsumexp(_t(x), axes, keep)),
    Case("reduce_mean_ints", lambda: mb.reduce_mean(x=NUMBERS, axes=[1]), lambda: np.trunc(NUMBERS.mean(1)), False),
    Case("reduce_argmax", lambda: mb.reduce_argmax(x=TIED, axis=1), lambda: np.argmax(TIED, 1)),
    Case(
        "reduce_argmin_kept",
        lambda: mb.reduce_argmin(x=TIED, axis=0, keep_dims=True),
        lambda: np.argmin(TIED, 0)[None],
    ),
]

LINEAR = [
    Case(
        "linear",
        lambda: mb.linear(x=LINE, weight=_W, bias=_W[:, 0].copy()),
        lambda: F.linear(_t(LINE), _t(_W), _t(_W[:, 0])),
    ),
    Case("matmul", lambda: mb.matmul(x=IMAGE, y=IMAGE[:1, :1], transpose_y=True), lambda: IMAGE @ IMAGE[:1, :1].mT),
    Case("matmul_x", lambda: mb.matmul(x=IMAGE, y=IMAGE, transpose_x=True), lambda: IMAGE.mT @ IMAGE),
    Case("matmul_ints", lambda: mb.matmul(x=NUMBERS, y=NUMBERS, transpose_y=True), lambda: NUMBERS @ NUMBERS.T),
    Case(
        "einsum",
        lambda: mb.einsum(values=(IMAGE, _normal_of(2, 6, 7, 5)), equation="nchw,nwhu->nchu"),
        lambda: np.einsum("nchw,nwhu->nchu", IMAGE, _normal_of(2, 6, 7, 5)),
    ),
    Case(
        "einsum_three",
        lambda: mb.einsum(values=(LINE, _normal_of(9, 4, 3)), equation="abc,cbd->abd"),
        lambda: np.einsum("abc,cbd->abd", LINE, _normal_of(9, 4, 3)),
    ),
    Case(
        "einsum_broadcast",
        lambda: mb.einsum(values=(IMAGE[:1], _normal_of(2, 6, 1, 5)), equation="nchw,nwhu->nchu"),
        lambda: np.einsum("nchw,nwhu->nchu", IMAGE[:1].repeat(2, 0), _normal_of(2, 6, 1, 5).repeat(7, 2)),
        False,
    ),
]
_W = _normal(5, 9)


def _normal_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


CONVOLUTIONS = [
    Case("conv_valid", lambda: mb.conv(x=IMAGE, weight=KERNEL), lambda: F.conv2d(_t(IMAGE), _t(KERNEL))),
    Case(
        "conv_custom",
        lambda: mb.conv(x=IMAGE, weight=KERNEL, bias=BIAS, pad_type="custom", pad=[1, 0, 2, 3], strides=[2, 1]),
        lambda: F.conv2d(F.pad(_t(IMAGE), (2, 3, 1, 0)), _t(KERNEL), _t(BIAS), (2, 1)),
    ),
    Case(
        "conv_symmetric_dilated",
        lambda: mb.conv(x=IMAGE, weight=KERNEL, pad_type="custom", pad=[2, 2, 1, 1], dilations=[2, 3]),
        lambda: F.conv2d(_t(IMAGE), _t(KERNEL), None, 1, (2, 1), (2, 3)),
    ),
    Case(
        "conv_same",
        lambda: mb.conv(x=IMAGE, weight=KERNEL, pad_type="same", strides=[1, 1]),
        lambda: F.conv2d(F.pad(_t(IMAGE), (0, 1, 1, 1)), _t(KERNEL)),
    ),
    Case(
        "conv_same_strided",  # of 7 rows 4 remain: (4 - 1) * 2 + 3 - 7 = 2 are added; of 6 columns 3: none
        lambda: mb.conv(x=IMAGE, weight=KERNEL, pad_type="same", strides=[2, 2]),
        lambda: F.conv2d(F.pad(_t(IMAGE), (0, 0, 1, 1)), _t(KERNEL), None, 2),
    ),
    Case(
        "conv_same_lower",
        lambda: mb.conv(x=IMAGE, weight=KERNEL, pad_type="same_lower"),
        lambda: F.conv2d(F.pad(_t(IMAGE), (1, 0, 1, 1)), _t(KERNEL)),
    ),
    Case(
        "conv_grouped",
        lambda: mb.conv(x=IMAGE, weight=DEPTHWISE, groups=4),
        lambda: F.conv2d(_t(IMAGE), _t(DEPTHWISE), groups=4),
    ),
    Case(
        "conv_1d",
        lambda: mb.conv(x=LINE, weight=KERNEL[..., 0].copy(), strides=[2]),
        lambda: F.conv1d(_t(LINE), _t(KERNEL[..., 0]), stride=2),
    ),
    Case(
        "conv_3d",
        lambda: mb.conv(x=VOLUME, weight=_normal_of(3, 2, 2, 2, 2), pad_type="same"),
        lambda: F.conv3d(F.pad(_t(VOLUME), (0, 1, 0, 1, 0, 1)), _t(_normal_of(3, 2, 2, 2, 2))),
    ),
    Case(
        "conv_transpose",
        lambda: mb.conv_transpose(
            x=IMAGE, weight=_normal_of(4, 3, 3, 2), bias=BIAS, strides=[2, 3], groups=2, dilations=[1, 2]
        ),
        lambda: F.conv_transpose2d(_t(IMAGE), _t(_normal_of(4, 3, 3, 2)), _t(BIAS), (2, 3), 0, 0, 2, (1, 2)),
    ),
    Case(
        "conv_transpose_custom",
        lambda: mb.conv_transpose(
            x=IMAGE, weight=_normal_of(4, 3, 3, 3), strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
        ),
        lambda: F.conv_transpose2d(_t(IMAGE), _t(_normal_of(4, 3, 3, 3)), None, 2, 1),
    ),
    Case(
        "conv_transpose_output_shape",
        lambda: mb.conv_transpose(
            x=IMAGE,
            weight=_normal_of(4, 3, 3, 3),
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            output_shape=[2, 3, 14, 12],
        ),
        lambda: F.conv_transpose2d(_t(IMAGE), _t(_normal_of(4, 3, 3, 3)), None, 2, 1, 1),
    ),
    Case("max_pool", lambda: _pool("max_pool", "valid"), lambda: F.max_pool2d(_t(IMAGE), (3, 2), 2)),
    Case(
        "max_pool_custom",
        lambda: _pool("max_pool", "custom", pad=[1, 1, 1, 0]),
        lambda: F.max_pool2d(F.pad(_t(IMAGE), (1, 0, 1, 1), value=-torch.inf), (3, 2), 2),
    ),
    Case(
        "max_pool_ceil",
        lambda: _pool("max_pool", "custom", pad=[1, 1, 1, 1], ceil_mode=True),
        lambda: F.max_pool2d(_t(IMAGE), (3, 2), 2, (1, 1), ceil_mode=True),
    ),
    Case(
        "max_pool_same",
        lambda: mb.max_pool(x=IMAGE, kernel_sizes=[2, 2], strides=[1, 1], pad_type="same"),
        lambda: F.max_pool2d(F.pad(_t(IMAGE), (0, 1, 0, 1), value=-torch.inf), 2, 1),
    ),
    Case(
        "max_pool_1d",
        lambda: mb.max_pool(x=LINE, kernel_sizes=[2], strides=[2], pad_type="valid", ceil_mode=True),
        lambda: F.max_pool1d(_t(LINE), 2, 2, ceil_mode=True),
    ),
    Case("avg_pool", lambda: _pool("avg_pool", "valid"), lambda: F.avg_pool2d(_t(IMAGE), (3, 2), 2)),
    Case(
        "avg_pool_counted",
        lambda: _pool("avg_pool", "custom", pad=[1, 1, 1, 1]),
        lambda: F.avg_pool2d(_t(IMAGE), (3, 2), 2, (1, 1)),
    ),
    Case(
        "avg_pool_excluded",
        lambda: _pool("avg_pool", "custom", pad=[1, 1, 1, 1], exclude_padding_from_average=True),
        lambda: F.avg_pool2d(_t(IMAGE), (3, 2), 2, (1, 1), count_include_pad=False),
    ),
    Case(
        "avg_pool_ceil",
        lambda: mb.avg_pool(x=LINE, kernel_sizes=[4], strides=[3], pad_type="custom", pad=[1, 1], ceil_mode=True),
        lambda: F.avg_pool1d(_t(LINE), 4, 3, 1, ceil_mode=True),
    ),
    Case(
        "avg_pool_ceil_excluded",
        lambda: mb.avg_pool(
            x=IMAGE,
            kernel_sizes=[3, 3],
            strides=[2, 2],
            pad_type="valid",
            ceil_mode=True,
            exclude_padding_from_average=True,
        ),
        lambda: F.avg_pool2d(_t(IMAGE), 3, 2, ceil_mode=True, count_include_pad=False),
    ),
    Case(
        "avg_pool_3d",
        lambda: mb.avg_pool(x=VOLUME, kernel_sizes=[2, 2, 2], strides=[1, 2, 1], pad_type="valid"),
        lambda: F.avg_pool3d(_t(VOLUME), 2, (1, 2, 1)),
    ),
]


def _pool(name: str, pad_type: str, **options: Any) -> Any:
    return getattr(mb, name)(x=IMAGE, kernel_sizes=[3, 2], strides=[2, 2], pad_type=pad_type, **options)


def _layer_norm(axes: tuple[int, ...], gamma: np.ndarray, beta: np.ndarray) -> torch.Tensor:
    shape = [size if axis in axes else 1 for axis, size in enumerate(IMAGE.shape)]
    variance, mean = torch.var_mean(_t(IMAGE), axes, correction=0, keepdim=True)
    return (_t(IMAGE) - mean) / torch.sqrt(variance + 0.01) * _t(gamma).reshape(shape) + _t(beta).reshape(shape)


NORMS = [
    Case(
        "layer_norm_last",
        lambda: mb.layer_norm(x=IMAGE, axes=[-1], gamma=_normal_of(6), beta=_normal_of(6), epsilon=0.01),
        lambda: _layer_norm((3,), _normal_of(6), _normal_of(6)),
    ),
    Case(
        "layer_norm_channels",
        lambda: mb.layer_norm(x=IMAGE, axes=[1], gamma=CHANNEL, beta=-CHANNEL, epsilon=0.01),
        lambda: _layer_norm((1,), CHANNEL, -CHANNEL),
    ),
    Case(
        "layer_norm_two",
        lambda: mb.layer_norm(x=IMAGE, axes=[3, 1], gamma=_normal_of(4, 6), beta=_normal_of(4, 6), epsilon=0.01),
        lambda: _layer_norm((1, 3), _normal_of(4, 6), _normal_of(4, 6)),
    ),
    Case(
        "layer_norm_all",
        lambda: mb.layer_norm(x=IMAGE, axes=[0, 1, 2, 3]),
        lambda: F.layer_norm(_t(IMAGE), IMAGE.shape),
    ),
    Case(
        "instance_norm",
        lambda: mb.instance_norm(x=IMAGE, gamma=CHANNEL, beta=-CHANNEL, epsilon=0.01),
        lambda: F.instance_norm(_t(IMAGE), weight=_t(CHANNEL), bias=_t(-CHANNEL), eps=0.01),
    ),
    Case(
        "batch_norm",
        lambda: mb.batch_norm(
            x=IMAGE, mean=CHANNEL, variance=CHANNEL**2, gamma=CHANNEL + 1, beta=-CHANNEL, epsilon=0.01
        ),
        lambda: F.batch_norm(
            _t(IMAGE), _t(CHANNEL), _t(CHANNEL) ** 2, _t(CHANNEL + 1), _t(-CHANNEL), training=False, eps=0.01
        ),
    ),
    Case(
        "l2_norm",
        lambda: mb.l2_norm(x=IMAGE, epsilon=0.01),
        lambda: IMAGE / np.sqrt((IMAGE**2).sum((1, 2, 3), keepdims=True) + 0.01),
    ),
]

SHAPES = [
    Case("transpose", lambda: mb.transpose(x=IMAGE, perm=[2, 0, -1, 1]), lambda: IMAGE.transpose(2, 0, 3, 1)),
    Case("reshape", lambda: mb.reshape(x=IMAGE, shape=[0, -1, 0, 2]), lambda: IMAGE.reshape(2, -1, 7, 2)),
    Case("reshape_longer", lambda: mb.reshape(x=TIED, shape=[1, 0, -1, 0]), lambda: TIED.reshape(1, 1, 2, 5)),
    Case("expand_dims", lambda: mb.expand_dims(x=LINE, axes=[0, -1]), lambda: np.expand_dims(LINE, (0, -1))),
    Case("squeeze", lambda: mb.squeeze(x=IMAGE[:1, :, :1].copy(), axes=[-2]), lambda: IMAGE[:1, :, 0]),
    Case("squeeze_all", lambda: mb.squeeze(x=IMAGE[:1, :, :1].copy()), lambda: IMAGE[0, :, 0]),
    Case("flatten2d", lambda: mb.flatten2d(x=IMAGE, axis=-2), lambda: IMAGE.reshape(8, 42)),
    Case("reverse", lambda: mb.reverse(x=IMAGE, axes=[1, -1]), lambda: IMAGE[:, ::-1, :, ::-1]),
    Case("split", lambda: mb.split(x=IMAGE, num_splits=2, axis=-1), lambda: np.split(IMAGE, 2, -1)),
    Case("split_sizes", lambda: mb.split(x=IMAGE, split_sizes=[1, 5, 1], axis=2), lambda: np.split(IMAGE, [1, 6], 2)),
    Case("concat", lambda: mb.concat(values=(IMAGE, IMAGE[:, :1]), axis=1), lambda: np.hstack([IMAGE, IMAGE[:, :1]])),
    Case(
        "concat_interleave",
        lambda: mb.concat(values=(LINE, -LINE), axis=-2, interleave=True),
        lambda: np.stack([LINE, -LINE], 2).reshape(2, 8, 9),
        False,
    ),
    Case("stack", lambda: mb.stack(values=(LINE, -LINE), axis=1), lambda: np.stack([LINE, -LINE], 1)),
    Case(
        "slice_by_index",
        lambda: mb.slice_by_index(x=IMAGE, begin=[0, 1, -3, 0], end=[2, -1, 7, 5], stride=[1, 1, 1, 2]),
        lambda: IMAGE[0:2, 1:-1, -3:7, 0:5:2],
    ),
    Case(
        "slice_by_index_masks",
        lambda: mb.slice_by_index(
            x=IMAGE,
            begin=[5, 9, 2, -2],
            end=[1, 9, 0, 0],
            begin_mask=[True, True, False, False],
            end_mask=[False, True, True, False],
            squeeze_mask=[False, False, False, True],
        ),
        lambda: IMAGE[:1, :, 2:, -2],
    ),
    Case(
        "slice_by_index_backwards",
        lambda: mb.slice_by_index(
            x=IMAGE,
            begin=[0, 3, 5, 0],
            end=[2, 0, 1, 0],
            stride=[1, -2, -1, -4],
            begin_mask=[False] * 3 + [True],
            end_mask=[False] * 3 + [True],
        ),
        lambda: IMAGE[:, 3:0:-2, 5:1:-1, ::-4],
    ),
    Case(
        "slice_by_size",
        lambda: mb.slice_by_size(x=IMAGE, begin=[0, -3, 4, 2], size=[1, 2, -1, 3]),
        lambda: IMAGE[:1, -3:-1, 4:, 2:5],
    ),
    *(
        Case(
            f"pad_{mode}",
            lambda mode=mode: mb.pad(x=IMAGE, pad=[1, 2, 3, 0], mode=mode, constant_val=0.5),
            lambda mode=mode: np.pad(
                IMAGE,
                ((0, 0), (0, 0), (1, 2), (3, 0)),
                "edge" if mode == "replicate" else mode,
                **({"constant_values": 0.5} if mode == "constant" else {}),
            ),
        )
        for mode in ("constant", "reflect", "replicate")
    ),
    Case("tile", lambda: mb.tile(x=LINE, reps=[2, 1, 3]), lambda: np.tile(LINE, (2, 1, 3))),
    Case("shape", lambda: mb.shape(x=IMAGE), lambda: np.array(IMAGE.shape)),
    Case("fill", lambda: mb.fill(shape=[2, 3], value=1.5), lambda: np.full((2, 3), 1.5, np.float32)),
    Case("fill_like", lambda: mb.fill_like(ref_tensor=LINE, value=7), lambda: np.full(LINE.shape, 7)),
    Case("range_1d", lambda: mb.range_1d(start=2, end=12, step=3), lambda: np.arange(2, 12, 3)),
    Case("range_1d_floats", lambda: mb.range_1d(start=1.0, end=-1.1, step=-0.5), lambda: np.arange(1.0, -1.1, -0.5)),
    Case(
        "pixel_shuffle",
        lambda: mb.pixel_shuffle(x=IMAGE, upscale_factor=2),
        lambda: F.pixel_shuffle(_t(IMAGE), 2),
    ),
    Case(
        "pixel_unshuffle",
        lambda: mb.pixel_unshuffle(x=IMAGE[:, :, :6].copy(), downscale_factor=np.uint32(3)),
        lambda: F.pixel_unshuffle(_t(IMAGE[:, :, :6]), 3),
    ),
    Case(
        "depth_to_space",  # of two channels by four places, the channel runs fastest
        lambda: mb.depth_to_space(x=_normal_of(1, 8, 2, 3), block_size=2),
        lambda: F.pixel_shuffle(_t(_normal_of(1, 8, 2, 3)).reshape(1, 4, 2, 2, 3).transpose(1, 2).flatten(1, 2), 2),
    ),
    Case(
        "space_to_depth",
        lambda: mb.space_to_depth(x=_normal_of(1, 2, 4, 6), block_size=2),
        lambda: F.pixel_unshuffle(_t(_normal_of(1, 2, 4, 6)), 2).reshape(1, 2, 4, 2, 3).transpose(1, 2).flatten(1, 2),
    ),
    Case("crop", lambda: mb.crop(x=IMAGE, crop_height=[1, 2], crop_width=[0, 3]), lambda: IMAGE[..., 1:5, 0:3]),
]

SELECTION = [
    Case("gather", lambda: mb.gather(x=IMAGE, indices=ROWS, axis=2), lambda: IMAGE.take(ROWS, 2)),
    Case("gather_matrix", lambda: mb.gather(x=IMAGE, indices=COLUMNS, axis=-1), lambda: IMAGE.take(COLUMNS, 3)),
    Case("gather_scalar", lambda: mb.gather(x=IMAGE, indices=3, axis=1), lambda: IMAGE[:, 3]),
    Case(
        "gather_batched",
        lambda: mb.gather(x=IMAGE, indices=COLUMNS, axis=2, batch_dims=1),
        lambda: np.stack([IMAGE[i].take(COLUMNS[i], 1) for i in range(2)]),
    ),
    Case(
        "gather_along_axis",
        lambda: mb.gather_along_axis(x=IMAGE, indices=ALONG, axis=2),
        lambda: np.take_along_axis(IMAGE, ALONG.astype(np.int64), 2),
    ),
    Case("gather_nd", lambda: mb.gather_nd(x=IMAGE, indices=CELLS), lambda: IMAGE[CELLS[:, 0], CELLS[:, 1]]),
    Case(
        "gather_nd_batched",
        lambda: mb.gather_nd(x=IMAGE, indices=CELLS[:2, None], batch_dims=1),
        lambda: np.stack([IMAGE[i, CELLS[i, 0], CELLS[i, 1]][None] for i in range(2)]),
    ),
    Case(
        "topk_ties",
        lambda: mb.topk(x=TIED, k=3, axis=-1),
        lambda: (np.array([[3, 3, 3], [1, 0, 0]], np.float32), np.array([[0, 2, 4], [4, 0, 1]])),
        False,
    ),
    Case(
        "topk_ascending",
        lambda: mb.topk(x=IMAGE, k=2, axis=1, ascending=True),
        lambda: (np.sort(IMAGE, 1)[:, :2], np.argsort(IMAGE, 1)[:, :2]),
    ),
    Case("topk_values", lambda: mb.topk(x=IMAGE, k=2, return_indices=False), lambda: -np.sort(-IMAGE)[..., :2]),
    Case("topk_unsorted", lambda: mb.topk(x=LINE, k=4, sort=False), lambda: torch.topk(_t(LINE), 4)),
    Case(
        "topk_short_indices",
        lambda: mb.topk(x=LINE, k=4, output_indices_dtype="uint16"),
        lambda: torch.topk(_t(LINE), 4),
        False,
    ),
    Case("argsort", lambda: mb.argsort(x=LINE, axis=1), lambda: np.argsort(-LINE, 1)),
    Case("argsort_ascending", lambda: mb.argsort(x=LINE, ascending=True), lambda: np.argsort(LINE)),
    Case(
        "one_hot",
        lambda: mb.one_hot(indices=CELLS, one_hot_vector_size=3, axis=0, on_value=2.0, off_value=-1.0),
        lambda: np.where(np.arange(3)[:, None, None] == CELLS, 2.0, -1.0),
    ),
    Case("one_hot_ints", lambda: mb.one_hot(indices=ROWS, one_hot_vector_size=3), lambda: np.eye(3)[ROWS]),
    Case("cumsum", lambda: mb.cumsum(x=LINE, axis=1), lambda: LINE.cumsum(1)),
    Case(
        "cumsum_exclusive_reverse",
        lambda: mb.cumsum(x=_varying(NUMBERS), axis=1, exclusive=True, reverse=True),
        lambda: np.array([[-4, 3, 0], [5, 5, 0]]),
    ),
    Case("band_part", lambda: mb.band_part(x=IMAGE, lower=1, upper=2), lambda: np.triu(np.tril(IMAGE, 2), -1)),
    Case("band_part_upper", lambda: mb.band_part(x=IMAGE, lower=0, upper=-1), lambda: np.triu(IMAGE)),
    *(
        Case(
            f"scatter_{mode}",
            lambda mode=mode: mb.scatter(data=LINE, indices=[1, 3], updates=LINE[:, 2:] * 2, axis=1, mode=mode),
            lambda combine=combine: _combined(combine),
        )
        for mode, combine in (
            ("update", lambda old, new: new),
            ("add", np.add),
            ("sub", np.subtract),
            ("mul", np.multiply),
            ("div", np.divide),
            ("max", np.maximum),
            ("min", np.minimum),
        )
    ),
    Case(
        "scatter_along_axis",
        lambda: mb.scatter_along_axis(data=IMAGE, indices=ALONG[:, :, :1], updates=IMAGE[:, :, :1], axis=2),
        lambda: _t(IMAGE).scatter_add(2, _t(ALONG[:, :, :1]).long(), _t(IMAGE[:, :, :1])),
        False,
    ),
    Case(
        "scatter_nd",
        lambda: mb.scatter_nd(data=LINE, indices=CELLS, updates=LINE[0, :3], mode="add"),
        lambda: _scattered(),
    ),
]


def _varying(array: np.ndarray) -> Any:
    """The same numbers as a value that coremltools does not infer, as its inference of some operations fails."""
    height, width = array.shape
    image = array[None].astype(np.float32)
    same = mb.resize_bilinear(x=image, target_size_height=height, target_size_width=width)
    return mb.cast(x=mb.squeeze(x=same, axes=[0]), dtype="int32")


def _combined(combine: Callable[..., Any]) -> np.ndarray:
    result = LINE.copy()
    result[:, [1, 3]] = combine(LINE[:, [1, 3]], LINE[:, 2:] * 2)
    return result


def _scattered() -> np.ndarray:
    result = LINE.copy()
    np.add.at(result, (CELLS[:, 0], CELLS[:, 1]), LINE[0, :3])
    return result


def _resample(**options: Any) -> Any:
    chosen = {
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": 0.0,
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": True,
        "coordinates": GRID,
    }
    return mb.resample(x=IMAGE, **(chosen | options))


def _sample(grid: np.ndarray = GRID, x: np.ndarray = IMAGE, **options: Any) -> torch.Tensor:
    return F.grid_sample(_t(x), _t(grid), **({"align_corners": True} | options))


_PIXELS = (GRID + 1) / 2 * np.array([5, 6], np.float32)

SAMPLING = [
    Case("resample", _resample, _sample),
    Case("resample_edges", lambda: _resample(align_corners=False), lambda: _sample(align_corners=False)),
    Case("resample_value", lambda: _resample(padding_value=3.0), lambda: _sample(x=IMAGE - 3) + 3),
    Case("resample_border", lambda: _resample(padding_mode="border"), lambda: _sample(padding_mode="border")),
    Case(
        "resample_reflection", lambda: _resample(padding_mode="reflection"), lambda: _sample(padding_mode="reflection")
    ),
    Case(
        "resample_symmetric",
        lambda: _resample(padding_mode="symmetric", align_corners=False),
        lambda: _sample(padding_mode="reflection", align_corners=False),
    ),
    Case(
        "resample_zero_to_one",
        lambda: _resample(coordinates_mode="normalized_zero_to_one", coordinates=(GRID + 1) / 2),
        _sample,
    ),
    Case(
        "resample_zero_to_one_edges",
        lambda: _resample(coordinates_mode="normalized_zero_to_one", coordinates=(GRID + 1) / 2, align_corners=False),
        lambda: _sample(align_corners=False),
    ),
    Case("resample_pixels", lambda: _resample(coordinates_mode="unnormalized", coordinates=_PIXELS), _sample),
    Case(
        "resample_whole_pixels",
        lambda: _resample(coordinates_mode="unnormalized", coordinates=_PIXELS.astype(np.int32)),
        lambda: _sample(_PIXELS.astype(np.int32).astype(np.float32) / np.array([5, 6], np.float32) * 2 - 1),
    ),
    *(
        Case(
            f"resample_nearest_{ours}",
            lambda ours=ours: _resample(sampling_mode="nearest", padding_mode=ours),
            lambda theirs=theirs: _sample(mode="nearest", padding_mode=theirs),
        )
        for ours, theirs in (("constant", "zeros"), ("border", "border"), ("reflection", "reflection"))
    ),
    Case(
        "upsample_nearest_neighbor",
        lambda: mb.upsample_nearest_neighbor(x=IMAGE, scale_factor_height=2, scale_factor_width=3),
        lambda: F.interpolate(_t(IMAGE), scale_factor=(2.0, 3.0)),
    ),
    Case(
        "upsample_bilinear",
        lambda: mb.upsample_bilinear(x=IMAGE, scale_factor_height=2, scale_factor_width=3),
        lambda: F.interpolate(_t(IMAGE), (14, 18), mode="bilinear", align_corners=True),
    ),
    Case(
        "upsample_bilinear_centred",
        lambda: mb.upsample_bilinear(x=IMAGE, scale_factor_height=2, scale_factor_width=3, align_corners=False),
        lambda: F.interpolate(_t(IMAGE), (14, 18), mode="bilinear"),
    ),
    Case(
        "resize_bilinear_strict",
        lambda: _resize("STRICT_ALIGN_CORNERS"),
        lambda: F.interpolate(_t(IMAGE), (5, 9), mode="bilinear", align_corners=True),
    ),
    Case(
        "resize_bilinear_unaligned",
        lambda: _resize("UNALIGN_CORNERS"),
        lambda: F.interpolate(_t(IMAGE), (5, 9), mode="bilinear"),
    ),
    Case(
        "resize_bilinear_default",
        lambda: _resize("DEFAULT"),
        lambda: _at_points(np.arange(5) * 1.4, np.arange(9) * 6 / 9),
    ),
    Case(
        "resize_bilinear_offset",
        lambda: _resize("OFFSET_CORNERS"),
        lambda: _at_points((np.arange(5) + 0.5) * 6 / 5, (np.arange(9) + 0.5) * 5 / 9),
    ),
    Case(
        "resize_bilinear_one",
        lambda: mb.resize_bilinear(x=IMAGE, target_size_height=1, target_size_width=1, sampling_mode="ALIGN_CORNERS"),
        lambda: _at_points(np.array([3.0]), np.array([2.5])),
    ),
    Case(
        "resize",
        lambda: mb.resize(x=IMAGE, shape=[1, 0, 9], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"),
        lambda: F.interpolate(_t(IMAGE), (7, 9), mode="bilinear"),
    ),
]


def _resize(mode: str) -> Any:
    return mb.resize_bilinear(x=IMAGE, target_size_height=5, target_size_width=9, sampling_mode=mode)


def _at_points(rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """IMAGE between its pixels, at most at the last ones."""
    down, across = np.meshgrid(rows.clip(0, 6) / 6 * 2 - 1, columns.clip(0, 5) / 5 * 2 - 1, indexing="ij")
    grid = np.stack([across, down], -1).astype(np.float32)[None].repeat(2, 0)
    return _sample(grid, padding_mode="border")


_STEPS = _RNG.integers(-128, 128, (4, 6)).astype(np.int8)
_SCALES = np.abs(_normal_of(4)) + np.float32(0.01)
_ZEROS = np.array([0, 3, -5, 100], np.int8)

QUANTIZATION = [
    Case(
        "quantize",
        lambda: mb.quantize(input=_normal_of(4, 6) * 90, scale=_SCALES, zero_point=_ZEROS, axis=0, output_dtype="int8"),
        lambda: (np.round(_normal_of(4, 6) * 90 / _SCALES[:, None]) + _ZEROS[:, None]).clip(-128, 127),
    ),
    Case(
        "quantize_scalar",
        lambda: mb.quantize(input=_normal_of(4, 6) * 9, scale=0.1, output_dtype="uint8"),
        lambda: np.round(_normal_of(4, 6) * 9 / np.float32(0.1)).clip(0, 255),
    ),
    Case(
        "dequantize",
        lambda: mb.dequantize(input=_STEPS, scale=_SCALES, zero_point=_ZEROS, axis=0),
        lambda: (_STEPS.astype(np.float32) - _ZEROS[:, None]) * _SCALES[:, None],
    ),
    Case("dequantize_scalar", lambda: mb.dequantize(input=_STEPS, scale=0.5), lambda: _STEPS * 0.5),
]

CASES = [
    *ELEMENTWISE,
    *ACTIVATIONS,
    *REDUCTIONS,
    *LINEAR,
    *CONVOLUTIONS,
    *NORMS,
    *SHAPES,
    *SELECTION,
    *SAMPLING,
    *QUANTIZATION,
]

_QUERY, _KEY, _VALUE = _normal_of(2, 3, 4, 5), _normal_of(2, 3, 6, 5), _normal_of(2, 3, 6, 7)
_MASK = _normal_of(4, 6)


def _attend(mask: np.ndarray | None) -> torch.Tensor:
    return F.scaled_dot_product_attention(_t(_QUERY), _t(_KEY), _t(_VALUE), None if mask is None else _t(mask))


_ATTENTION = {"query": _QUERY, "key": _KEY, "value": _VALUE}
NEWER_CASES = [
    Case("scaled_dot_product_attention", lambda: mb.scaled_dot_product_attention(**_ATTENTION), lambda: _attend(None)),
    Case(
        "scaled_dot_product_attention_mask",
        lambda: mb.scaled_dot_product_attention(**_ATTENTION, attn_mask=_MASK),
        lambda: _attend(_MASK),
    ),
    Case(
        "scaled_dot_product_attention_chosen",
        lambda: mb.scaled_dot_product_attention(**_ATTENTION, attn_mask=_MASK > -0.5),
        lambda: _attend(_MASK > -0.5),
    ),
    Case(
        "slice_update",
        lambda: mb.slice_update(
            x=IMAGE,
            update=-IMAGE[:, 1:3, ::-3],
            begin=[0, 1, 0, 0],
            end=[2, 3, 0, 6],
            stride=[1, 1, -3, 1],
            begin_mask=[False, False, True, False],
            end_mask=[False, False, True, False],
        ),
        lambda: _updated(),
    ),
]


def _updated() -> np.ndarray:
    result = IMAGE.copy()
    result[:, 1:3, ::-3] = -IMAGE[:, 1:3, ::-3]
    return result


@dataclass(frozen=True)
class Outcome:
    """What became of a case: results of the package, and what coremltools inferred, None where nothing."""

    results: list[np.ndarray]
    inferred: list[np.ndarray | None]


def _run_all(cases: list[Case], folder: Path, target: Any) -> dict[str, Outcome]:
    """All cases in one package, tapped."""
    made: dict[str, list[Any]] = {}

    def build(x: Any) -> Any:
        for case in cases:
            try:
                built = case.build()
            except Exception as error:
                raise AssertionError(f"coremltools builds no {case.name}") from error
            made[case.name] = list(built) if isinstance(built, list | tuple) else [built]
        return mb.identity(x=x, name="out")

    path = save(folder / "cases.mlpackage", build, target=target)
    taps = [value.name for values in made.values() for value in values]
    results = evaluate(path, taps, x=np.zeros(1, np.float32))
    return {
        name: Outcome([results[value.name] for value in values], [value.val for value in values])
        for name, values in made.items()
    }


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("evaluate_ops")
    (folder / "newer").mkdir()
    return _run_all(CASES, folder, ct.target.iOS17) | _run_all(NEWER_CASES, folder / "newer", ct.target.iOS18)


@pytest.mark.parametrize("case", [*CASES, *NEWER_CASES], ids=lambda case: case.name)
def test_operation(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    if case.expected is not None:
        expected = case.expected()
        expected = expected if isinstance(expected, list | tuple) else [expected]
        assert len(expected) == len(outcome.results)
        for result, wanted in zip(outcome.results, expected, strict=True):
            _assert_close(result, np.asarray(wanted))
    if case.inferred:
        for result, inferred in zip(outcome.results, outcome.inferred, strict=True):
            if inferred is not None:
                _assert_close(result, np.asarray(inferred))


def _assert_close(result: np.ndarray, wanted: np.ndarray) -> None:
    assert result.shape == wanted.shape
    if result.dtype.kind == "f":
        np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-6)
    else:
        np.testing.assert_array_equal(result, wanted)


def test_every_operation_has_a_case() -> None:
    names = [case.name for case in (*CASES, *NEWER_CASES)]
    elsewhere = {"classify"}  # test_evaluate_evaluator.py
    untested = {kind for kind in OPERATIONS if not any(f"{name}_".startswith(f"{kind}_") for name in names)}
    assert untested == elsewhere
    assert not OPERATIONS.keys() & DECOMPRESSORS.keys()
