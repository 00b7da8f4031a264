"""Every operation against ONNX Runtime in float32, and in float16 against what it means to round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from debiexport.errors import BundleError
from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.evaluate.onnx.ops.table import OPERATIONS
from debiexport.runtimes.ort import OrtGraph

OneLine = Callable[[BaseException], str]
_RNG = np.random.default_rng(7)


def _n(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _i(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _scalar(number: float) -> np.ndarray:
    return np.array(number, np.float32)


@dataclass
class Case:
    """One node: floats, other matrices and booleans are inputs; vectors of int64 are constants."""

    op: str
    inputs: list[np.ndarray | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 20
    exact: bool = False  # in float16 the reference evaluator's result is that of one rounding

    def __str__(self) -> str:
        return f"{self.op}-{'-'.join(map(str, self.attributes.values()))}-{len(self.inputs)}"


def _model(case: Case, inputs: list[np.ndarray | None]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    names = [f"x{i}" if each is not None else "" for i, each in enumerate(inputs)]
    made = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, names, made, name="node", **case.attributes)
    given, stored, values = {}, [], []
    for name, each in zip(names, inputs, strict=True):
        if each is None:
            continue
        if each.dtype == np.int64 and each.ndim < 2:
            stored.append(numpy_helper.from_array(each, name))
        else:
            given[name] = each
            kind = helper.np_dtype_to_tensor_dtype(each.dtype)
            values.append(helper.make_tensor_value_info(name, kind, each.shape))
    graph = helper.make_graph([node], "graph", values, [], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=9)
    inferred = {
        value.name: value for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    }
    model.graph.output.extend(inferred[name] for name in made)
    return model, given


_X, _Y, _POSITIVE = _n(2, 3, 4), _n(3, 1), np.abs(_n(2, 3, 4)) + 0.1
_IMAGE, _B, _C = _n(2, 4, 7, 6), _n(2, 3, 4) > 0, _n(2, 3, 4) > 0
_WHOLE, _OTHER = _RNG.integers(-9, 9, (2, 3, 4)), _RNG.integers(1, 5, (3, 1))
_TIED = _RNG.integers(0, 3, (3, 8)).astype(np.float32)
_GRID = (_RNG.uniform(-1.4, 1.4, (2, 5, 5, 2))).astype(np.float32)
_VOLUME, _GRID3 = _n(1, 2, 3, 4, 5), _RNG.uniform(-1.2, 1.2, (1, 2, 3, 2, 3)).astype(np.float32)
_PLACES = _RNG.integers(-3, 3, (2, 3, 2))
_DISTINCT = np.argsort(_RNG.random((2, 3, 4)), axis=1)[:, :2] - 1  # along axis 1 each index once, some negative

_UNARY = [
    "Abs",
    "Ceil",
    "Floor",
    "Identity",
    "Neg",
    "Relu",
    "Round",
    "Sign",
    "Softplus",
    "Sigmoid",
    "Tanh",
    "HardSwish",
]
_EXACT = {"Abs", "Ceil", "Floor", "Identity", "Neg", "Relu", "Round", "Sign"}

CASES = [
    *(Case(op, [_X], exact=op in _EXACT) for op in (*_UNARY, "Cos", "Erf", "Exp", "Sin")),
    *(Case(op, [_POSITIVE], exact=op != "Log") for op in ("Log", "Reciprocal", "Sqrt")),
    *(Case(op, [_X, _Y], exact=True) for op in ("Add", "Div", "Mul", "Sub", "Max", "Min", "Sum")),
    *(Case(op, [_X, _Y]) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(Case(op, [_WHOLE, _OTHER]) for op in ("Add", "Div", "Equal", "Max", "Mod", "Mul", "Sub")),
    *(Case(op, [_B, _C]) for op in ("And", "Or", "Xor")),
    Case("Not", [_B]),
    Case("Mod", [_WHOLE, _OTHER], {"fmod": 1}),
    Case("Mod", [_X, np.abs(_Y) + 0.5], {"fmod": 1}),
    Case("Pow", [_POSITIVE, _Y]),
    Case("Pow", [_X, _OTHER]),
    Case("Pow", [_WHOLE, np.abs(_Y).round()]),
    Case("Clip", [_X, _scalar(-0.5), _scalar(0)], exact=True),
    Case("Clip", [_X, None, _scalar(0)], exact=True),
    Case("Where", [_B, _X, _Y], exact=True),
    Case("Where", [_B, _WHOLE, _OTHER]),
    Case("IsNaN", [np.array([1, np.nan, np.inf], np.float32)]),
    Case("IsInf", [np.array([1, np.nan, np.inf, -np.inf], np.float32)], {"detect_negative": 0}),
    *(Case("Cast", [_X * 3], {"to": to}) for to in (TensorProto.INT32, TensorProto.BOOL, TensorProto.DOUBLE)),
    *(Case("Cast", [_X], {"to": to}, exact=True) for to in (TensorProto.FLOAT16, TensorProto.FLOAT)),
    *(Case("Cast", [_WHOLE], {"to": to}) for to in (TensorProto.INT8, TensorProto.FLOAT, TensorProto.BOOL)),
    *(Case("CastLike", inputs) for inputs in ([_X * 3, _WHOLE], [_WHOLE, _X])),
    *(Case("Gelu", [_X], {"approximate": mode}) for mode in ("none", "tanh")),
    Case("HardSigmoid", [_X], {"alpha": 0.3, "beta": 0.4}),
    Case("LeakyRelu", [_X], {"alpha": 0.1}),
    *(Case(op, [_X], {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (-1, 1)),
    Case("MatMul", [_X, _n(4, 5)]),
    Case("MatMul", [_n(5, 1, 2, 3), _n(2, 3, 4)]),
    Case("Gemm", [_n(3, 4), _n(4, 5), _n(5)]),
    Case("Gemm", [_n(4, 3), _n(5, 4), _n(3, 1)], {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}),
    Case("Gemm", [_n(3, 4), _n(4, 5)]),
    Case("Einsum", [_n(2, 3, 4), _n(2, 4, 5)], {"equation": "bij,bjk->bki"}),
    Case("Conv", [_IMAGE, _n(6, 4, 3, 3), _n(6)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    Case("Conv", [_IMAGE, _n(4, 1, 3, 2)], {"group": 4, "pads": [0, 1, 2, 0], "dilations": [2, 1]}),
    *(Case("Conv", [_IMAGE, _n(2, 4, 4, 2)], {"auto_pad": p, "strides": [2, 1]}) for p in ("SAME_UPPER", "SAME_LOWER")),
    Case("Conv", [_n(2, 3, 8), _n(4, 3, 3), _n(4)], {"kernel_shape": [3]}),
    Case("ConvTranspose", [_IMAGE, _n(4, 3, 3, 2), _n(3)], {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    Case("ConvTranspose", [_IMAGE, _n(4, 1, 2, 2)], {"group": 4, "strides": [3, 3], "output_padding": [1, 0]}),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [2, 3], "strides": [2, 2]}),
    *(
        Case("AveragePool", [_IMAGE], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": count})
        for count in (0, 1)
    ),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [2, 2], "strides": [2, 4], "ceil_mode": 1}),
    Case("MaxPool", [_IMAGE - 9], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 0], "dilations": [1, 2]}),
    Case("MaxPool", [_IMAGE], {"kernel_shape": [2, 2], "strides": [2, 4], "ceil_mode": 1}),
    Case("MaxPool", [_IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Case("GlobalAveragePool", [_IMAGE]),
    Case("GlobalMaxPool", [_IMAGE], exact=True),
    Case("LayerNormalization", [_X, _n(4), _n(4)]),
    Case("LayerNormalization", [_X, _n(3, 4)], {"axis": 1, "epsilon": 0.1}),
    Case("LayerNormalization", [_X, _n(4), _n(4)], {"axis": 2}, outputs=3),
    Case("InstanceNormalization", [_IMAGE, _n(4), _n(4)], {"epsilon": 0.01}),
    Case("BatchNormalization", [_IMAGE, _n(4), _n(4), _n(4), np.abs(_n(4))], {"epsilon": 0.01}),
    *(
        Case(f"Reduce{op}", [_X, _i(-1, 0)], {"keepdims": keep})
        for op in ("L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
        for keep in (0, 1)
    ),
    Case("ReduceSum", [_X]),
    Case("ReduceMean", [_X, _i()], {"noop_with_empty_axes": 1}, exact=True),
    Case("ReduceMax", [_WHOLE, _i(1)]),
    *(
        Case(op, [_TIED], {"axis": axis, "select_last_index": last, "keepdims": 1 - last})
        for op in ("ArgMax", "ArgMin")
        for axis, last in ((0, 0), (-1, 1))
    ),
    Case("Transpose", [_X], {"perm": [2, 0, 1]}, exact=True),
    Case("Transpose", [_X], exact=True),
    Case("Reshape", [_X, _i(0, -1, 2)], exact=True),
    Case("Reshape", [np.zeros((0, 3), np.float32), _i(3, 0)], {"allowzero": 1}, exact=True),
    *(Case("Flatten", [_X], {"axis": axis}, exact=True) for axis in (0, 1, 3, -1)),
    Case("Squeeze", [_n(1, 2, 1), _i(-1)], exact=True),
    Case("Squeeze", [_n(1, 2, 1)], exact=True),
    Case("Unsqueeze", [_X, _i(-1, 1)], exact=True),
    Case("Expand", [_Y, _i(2, 1, 4)], exact=True),
    Case("Expand", [_X, _i(1)], exact=True),
    Case("Tile", [_X, _i(1, 2, 3)], exact=True),
    Case("Slice", [_IMAGE, _i(1, -1), _i(100, -100), _i(3, 2), _i(2, -2)], exact=True),
    Case("Slice", [_IMAGE, _i(0, 1), _i(-1, 3)], exact=True),
    *(Case("DepthToSpace", [_IMAGE], {"blocksize": 2, "mode": mode}, exact=True) for mode in ("DCR", "CRD")),
    Case("SpaceToDepth", [_n(2, 3, 4, 6)], {"blocksize": 2}, exact=True),
    Case("Pad", [_X, _i(0, 1, 2, 1, 0, -1), _scalar(2)]),
    Case("Pad", [_X, _i(1, 2), None, _i(-1)], exact=True),
    *(Case("Pad", [_X, _i(0, 1, 2, 0, 2, 1)], {"mode": mode}, exact=True) for mode in ("edge", "reflect", "wrap")),
    Case("Concat", [_X, _n(2, 1, 4)], {"axis": -2}, exact=True),
    Case("Split", [_X, _i(1, 3)], {"axis": -1}, outputs=2, exact=True),
    Case("Split", [_n(7, 2)], {"num_outputs": 3}, outputs=3, exact=True),
    Case("Gather", [_X, np.array([[2, -1], [0, 0]])], {"axis": 1}, exact=True),
    Case("Gather", [_X, np.array(1)], exact=True),
    Case("GatherElements", [_X, _DISTINCT], {"axis": 1}, exact=True),
    Case("GatherND", [_n(3, 3, 4), _PLACES], exact=True),
    Case("GatherND", [_n(2, 3, 4), _PLACES[:, :, :1]], {"batch_dims": 1}, exact=True),
    Case("ScatterElements", [_X, _DISTINCT, _n(2, 2, 4)], {"axis": 1}, exact=True),
    *(
        Case("ScatterElements", [_X, np.zeros((2, 2, 4), np.int64), _n(2, 2, 4)], {"axis": 1, "reduction": reduction})
        for reduction in ("add", "mul", "max", "min")
    ),
    Case("ScatterND", [_n(3, 3, 4), np.array([[0, 1], [-1, 2]]), _n(2, 4)], exact=True),
    Case("ScatterND", [_n(3, 4), np.array([[0], [0]]), _n(2, 4)], {"reduction": "add"}),
    *(Case("TopK", [_TIED, _i(3)], {"axis": a, "largest": b}, outputs=2, exact=True) for a, b in ((-1, 1), (0, 0))),
    *(
        Case("GridSample", [_IMAGE, _GRID], {"mode": mode, "padding_mode": padding, "align_corners": aligned})
        for mode in ("linear", "nearest", "cubic")
        for padding in ("zeros", "border", "reflection")
        for aligned in (0, 1)
    ),
    *(Case("GridSample", [_VOLUME, _GRID3], {"mode": mode}) for mode in ("linear", "nearest")),
    *(Case("GridSample", [_IMAGE, _GRID], {"mode": mode}, opset=18) for mode in ("bilinear", "bicubic")),
    Case("ConstantOfShape", [_i(2, 3)], {"value": helper.make_tensor("v", TensorProto.INT32, [1], [7])}),
    Case("ConstantOfShape", [_i(2)]),
    *(Case("Range", [np.array(a), np.array(b), np.array(c)]) for a, b, c in ((1, 8, 3), (5, 0, -2), (0, 0, 1))),
    Case("Shape", [_X], {"start": 1, "end": -1}),
    Case("Size", [_X]),
    *(Case("Trilu", [_n(3, 4), np.array(k)], {"upper": upper}, exact=True) for k in (-1, 1) for upper in (0, 1)),
]


def _half(array: np.ndarray | None) -> np.ndarray | None:
    return array.astype(np.float16) if array is not None and array.dtype == np.float32 else array


def _close(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert results.keys() == expected.keys()
    for name, wanted in expected.items():
        assert results[name].shape == wanted.shape
        if wanted.dtype == np.float32:
            np.testing.assert_allclose(results[name], wanted, rtol=2e-5, atol=4e-6)
        else:
            np.testing.assert_array_equal(results[name], wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_as_onnx_runtime(case: Case) -> None:
    model, given = _model(case, case.inputs)
    _close(OnnxEvaluator(model).run(given), OrtGraph(model, "model", threads=1).run(given))


@pytest.mark.parametrize("case", [case for case in CASES if any(_half(x) is not x for x in case.inputs)], ids=str)
def test_float16_is_float32_rounded_once(case: Case) -> None:
    inputs = [_half(each) for each in case.inputs]
    model, given = _model(case, inputs)
    wide = [each if each is None or each.dtype != np.float16 else each.astype(np.float32) for each in inputs]
    whole, given_whole = _model(case, wide)
    results, expected = OnnxEvaluator(model).run(given), OnnxEvaluator(whole).run(given_whole)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    for name, wanted in expected.items():
        narrow = wanted.astype(np.float16).astype(np.float32) if kinds[name] == TensorProto.FLOAT16 else wanted
        np.testing.assert_array_equal(results[name], narrow)
    if case.exact:
        reference = ReferenceEvaluator(model).run(None, given)
        for result, wanted in zip(results.values(), reference, strict=True):
            np.testing.assert_array_equal(result, np.asarray(wanted))


def test_every_operation_is_tried() -> None:
    assert {case.op for case in CASES} == set(OPERATIONS)


def test_bfloat16_keeps_eight_bits() -> None:
    constant = helper.make_tensor("c", TensorProto.BFLOAT16, [2], [1.0, 3.0])
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g (bfloat16[2] x) => (bfloat16[2] y) { y = Add(x, c) }'
    )
    model.graph.initializer.append(constant)
    result = OnnxEvaluator(model).run({"x": np.array([2**-8, 2**-6], np.float32)})
    np.testing.assert_array_equal(result["y"], np.array([1, 3 + 2**-6], np.float32))


def test_float64_stays_wide() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20]> g (double[1] x) => (float[1] y)'
        " { e = Constant<value = double[1] {1e-12}>() d = Add(x, e) s = Sub(d, x) y = Cast<to = 1>(s) }"
    )
    result = OnnxEvaluator(model).run({"x": np.ones(1)}, ["d"])
    assert result["d"].dtype == np.float64
    assert result["y"] == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("Gather", [_X, _i(5)]), "indices from 5 to 5 of 2 elements"),
        (Case("MaxPool", [_IMAGE], {"kernel_shape": [2, 2]}, outputs=2), "indices as a second result"),
        (Case("AveragePool", [_IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 2]}), "the dilations [2, 2]"),
        (Case("ConvTranspose", [_IMAGE, _n(4, 3, 3, 2)], {"auto_pad": "SAME_UPPER"}), "the padding SAME_UPPER"),
        (Case("LayerNormalization", [_X, _n(4)], {"stash_type": 10}), "statistics of type 10, known is float32"),
        (Case("GridSample", [_IMAGE, _GRID], {"mode": "linear"}, opset=18), "in opset 18 there are bilinear"),
        (Case("GridSample", [_IMAGE, _GRID], {"mode": "bilinear"}), "in opset 20 there are linear"),
        (Case("ScatterElements", [_X, _DISTINCT, _n(2, 2, 3)], {"axis": 1}), "[2, 2, 3] updates at [2, 2, 4]"),
        (Case("ScatterND", [_n(3, 4), np.array([[5]]), _n(1, 4)]), "indices from 5 to 5 of 3 elements"),
        (
            Case("Pad", [_X, _i(0, 0, 9, 0, 0, 0)], {"mode": "reflect"}),
            "the mode reflect with 9 and 0 elements around 4",
        ),
        (Case("Mod", [_X, _Y]), "for which fmod has to be 1"),
        (Case("Range", [np.array(0), np.array(3), np.array(0)]), "a step of 0"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(case: Case, words: str, one_line: OneLine) -> None:
    model, given = _model(case, case.inputs)
    evaluator = OnnxEvaluator(model)
    with pytest.raises(BundleError) as caught:
        evaluator.run(given)
    assert words in one_line(caught.value)
