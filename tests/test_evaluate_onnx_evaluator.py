from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from debiexport.errors import BundleError, UsageError
from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.evaluate.onnx.graph import read_graph
from debiexport.evaluate.onnx.steps import prepare
from debiexport.runtimes.ort import OrtGraph, OrtRuntime

OneLine = Callable[[BaseException], str]
_RNG = np.random.default_rng(5)
WEIGHT = _RNG.standard_normal((3, 4)).astype(np.float16)
X = _RNG.standard_normal((2, 3)).astype(np.float32)
_HEADER = '<ir_version: 9, opset_import: ["": 20]>'


def _parse(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{_HEADER} g {body}")


def _network(batch: str = "N") -> onnx.ModelProto:
    model = _parse(
        f"(float16[{batch},3] x) => (float16[{batch},4] out)"
        " { hidden = MatMul(x, weight) squared = Mul(hidden, hidden) out = Softmax(squared) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "weight"))
    return model


def _half(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16).astype(np.float32)


def _expected(rounded: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    hidden = rounded(rounded(X) @ WEIGHT.astype(np.float32))
    squared = rounded(hidden * hidden)
    exponentials = np.exp(squared.astype(np.float64))
    out = rounded((exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32))
    return {"out": out, "hidden": hidden, "squared": squared}


def test_every_result_is_rounded() -> None:
    results = OnnxEvaluator(_network()).run({"x": X}, ["hidden", "squared"])
    assert list(results) == ["out", "hidden", "squared"]
    for name, expected in _expected(_half).items():
        assert results[name].dtype == np.float32
        np.testing.assert_array_equal(results[name], expected)


def test_keep_float32_rounds_weights_alone() -> None:
    results = OnnxEvaluator(_network(), keep_float32=True).run({"x": X}, ["hidden", "squared"])
    for name, expected in _expected(lambda array: array).items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-5)
        assert (results[name] != _half(results[name])).any()


def test_keep_float32_and_float64() -> None:
    model = _parse(
        "(float16[2] x) => (float16[2] y) <double[2] c = {1, 2}>"
        " { wide = Cast<to = 11>(x) sum = Add(wide, c) y = Cast<to = 10>(sum) }"
    )
    result = OnnxEvaluator(model, keep_float32=True).run({"x": np.full(2, 1 / 3, np.float32)}, ["sum"])
    assert result["sum"].dtype == np.float64
    np.testing.assert_array_equal(result["y"], (np.float32(1 / 3) + np.array([1.0, 2.0])).astype(np.float32))


def test_any_batch_one_after_the_other() -> None:
    evaluator = OnnxEvaluator(_network())
    assert evaluator.batch is None
    assert evaluator.inputs == {"x": ("N", 3)}
    assert evaluator.outputs == ["out"]
    for count in (1, 5, 2):
        images = np.repeat(X[:1], count, 0)
        np.testing.assert_array_equal(
            evaluator.run({"x": images})["out"], np.repeat(_expected(_half)["out"][:1], count, 0)
        )


def test_a_fixed_batch() -> None:
    evaluator = OnnxEvaluator(_network("2"))
    assert evaluator.batch == 2
    with pytest.raises(UsageError, match=r"has shape \[1, 3\]: give \[2, 3\]"):
        evaluator.run({"x": X[:1]})


def test_runs_are_alike_and_results_the_callers() -> None:
    evaluator = OnnxEvaluator(_network())
    taps = ["weight", "x", "hidden"]
    first = evaluator.run({"x": X}, taps)
    kept = {name: array.copy() for name, array in first.items()}
    np.testing.assert_array_equal(kept["weight"], WEIGHT.astype(np.float32))
    for array in first.values():
        array[:] = 7
    for name, array in evaluator.run({"x": X}, taps).items():
        np.testing.assert_array_equal(array, kept[name])


def test_values_go_after_their_last_use() -> None:
    steps = prepare(read_graph(_network()))
    assert [sorted({*step.spent} - {"weight"}) for step in steps] == [["x"], ["hidden"], ["squared"]]


def test_integers_come_as_declared() -> None:
    body = "(uint16[2] x) => (uint16[2] y, bool[2] b) { y = Identity(x) b = Equal(x, x) }"
    result = OnnxEvaluator(_parse(body)).run({"x": np.array([1, 65535], np.uint16)})
    assert result["y"].dtype == np.uint16
    assert result["y"].tolist() == [1, 65535]
    assert result["b"].dtype == np.bool_


def test_results_that_are_left_out() -> None:
    model = _parse("(float[2,4] x, float[4] s) => (float[2,1] i) { y, m, i = LayerNormalization(x, s) }")
    model.graph.node[0].output[1] = ""
    x = _RNG.standard_normal((2, 4)).astype(np.float32)
    result = OnnxEvaluator(model).run({"x": x, "s": np.ones(4, np.float32)})
    np.testing.assert_allclose(result["i"], 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5), rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "no input 'x': give 'x' [N, 3]"),
        ({"x": X, "y": X}, "has no input 'y': give 'x' [N, 3]"),
        ({"x": X[:, :1]}, "has shape [2, 1]: give [N, 3]"),
        ({"x": X[0]}, "has shape [3]: give [N, 3]"),
        ({"x": np.float32(1)}, "has shape []: give [N, 3]"),
        ({"x": X.astype(np.str_)}, "give fp16[2, 3]"),
    ],
)
def test_inputs_are_checked(inputs: dict[str, np.ndarray], words: str, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        OnnxEvaluator(_network()).run(inputs)
    assert words in one_line(caught.value)


def test_integers_are_not_made_of_floats() -> None:
    model = _parse("(int32[2] x) => (int32[2] y) { y = Neg(x) }")
    with pytest.raises(UsageError, match=r"is of float32: give int32\[2\]"):
        OnnxEvaluator(model).run({"x": np.ones(2, np.float32)})


def test_inputs_of_several_batches(one_line: OneLine) -> None:
    model = _parse("(float[N,2] x, float[N,2] z) => (float[N,2] y) { y = Add(x, z) }")
    with pytest.raises(UsageError) as caught:
        OnnxEvaluator(model).run({"x": np.ones((2, 2), np.float32), "z": np.ones((1, 2), np.float32)})
    assert "several batches, {'x': 2, 'z': 1}" in one_line(caught.value)


def test_unknown_tap() -> None:
    with pytest.raises(BundleError, match="no tensor 'nowhere' to tap"):
        OnnxEvaluator(_network()).run({"x": X}, ["nowhere"])


def test_inputs_or_attributes_that_are_unknown_are_named_before_any_run(one_line: OneLine) -> None:
    model = _parse(
        "(float[1,2,4] x, float[2,2,1] w) => (float[1,2,4] y) { y = ConvTranspose<output_shape = [4]>(x, w) }"
    )
    with pytest.raises(BundleError) as caught:
        OnnxEvaluator(model)
    assert "'y' (ConvTranspose) has inputs or attributes that are unknown here" in one_line(caught.value)
    assert "output_shape" in one_line(caught.value)


def test_a_result_that_is_not_as_declared(monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    from debiexport.evaluate.onnx import steps

    for result, found in ((lambda x: x[:, :1], "float32[2, 1]"), (lambda x: x > 0, "bool[2, 4]")):
        monkeypatch.setitem(steps.OPERATIONS, "Softmax", result)
        with pytest.raises(BundleError) as caught:
            OnnxEvaluator(_network()).run({"x": X})
        assert f"gives {found} where 'out' is declared fp16[2, 4]" in one_line(caught.value)


def _images(shape: tuple[int | str, ...], dtype: str = "float32") -> np.ndarray:
    sizes = [2 if isinstance(size, str) else size for size in shape]
    return (
        (_RNG.standard_normal(sizes) * 40 + 100).astype(dtype)
        if dtype == "uint8"
        else _RNG.standard_normal(sizes).astype(dtype)
    )


@pytest.mark.parametrize("kind", ["dynamic_bundle", "seg_bundle", "uint8_bundle"])
def test_exported_models_as_onnx_runtime(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind) / "model.onnx"
    evaluator, runtime = OnnxEvaluator(path), OrtRuntime(path, threads=1)
    assert evaluator.inputs == runtime.inputs
    assert evaluator.outputs == runtime.outputs
    assert evaluator.batch == runtime.batch
    inputs = {"images": _images(evaluator.inputs["images"], "uint8" if kind == "uint8_bundle" else "float32")}
    taps = [name for node in onnx.load(path).graph.node[5::40] for name in node.output if name]
    expected = runtime.run(inputs, taps)
    for name, result in evaluator.run(inputs, taps).items():
        wanted = expected[name]
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))
    assert evaluator.first_not_finite(inputs) is None


_NARROW = ("Conv", "MatMul", "Gemm")


def _cast(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its products in float16: their weights converted, what they read and give cast."""
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    halves: set[str] = set()
    for node in narrow.graph.node:
        if node.op_type not in _NARROW:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            half = f"{name}.half"
            if name and half not in halves:
                halves.add(half)
                if name in stored:
                    array = numpy_helper.to_array(stored[name]).astype(np.float16)
                    narrow.graph.initializer.append(numpy_helper.from_array(array, half))
                else:
                    nodes.append(helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16))
            node.input[i] = half if name else ""
        wide = node.output[0]
        node.output[0] = f"{wide}.narrow"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [wide], to=TensorProto.FLOAT)]
    del narrow.graph.node[:]
    narrow.graph.node.extend(nodes)
    return narrow


@pytest.fixture
def narrow(dynamic_bundle: Path) -> onnx.ModelProto:
    """The tiny DeBiFormer with its products in float16."""
    return _cast(onnx.load(dynamic_bundle / "model.onnx"))


def test_products_in_float16(narrow: onnx.ModelProto, dynamic_bundle: Path) -> None:
    inputs = {"images": _images((1, 3, 64, 64))}
    product = next(node.output[0] for node in narrow.graph.node if node.op_type == "Conv")
    results = OnnxEvaluator(narrow).run(inputs, [product])
    whole = OnnxEvaluator(dynamic_bundle / "model.onnx").run(inputs)
    np.testing.assert_array_equal(results[product], _half(results[product]))
    difference = np.abs(results["logits"] - whole["logits"]).max()
    assert 0 < difference < 0.1 * np.abs(whole["logits"]).max()
    np.testing.assert_allclose(
        OnnxEvaluator(narrow, keep_float32=True).run(inputs)["logits"], whole["logits"], rtol=0, atol=2e-2
    )


def test_a_planted_overflow_is_named(narrow: onnx.ModelProto) -> None:
    inputs = {"images": _images((1, 3, 64, 64))}
    assert OnnxEvaluator(narrow).first_not_finite(inputs) is None
    planted = [node for node in narrow.graph.node if node.op_type == "Conv"][3]
    tensor = next(tensor for tensor in narrow.graph.initializer if tensor.name == planted.input[1])
    # Of random signs: inputs of mean 0 would cancel.
    large = np.where(numpy_helper.to_array(tensor) > 0, 60000, -60000).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(large, tensor.name))
    assert OnnxEvaluator(narrow).first_not_finite(inputs) == (planted.name, planted.output[0])
    assert OnnxEvaluator(narrow, keep_float32=True).first_not_finite(inputs) is None


def test_an_overflow_that_onnx_runtime_does_not_see() -> None:
    """It computes float16 in float32 where a CPU has no kernels for it."""
    model = _parse("(float16[2] x) => (float16[2] y) { a = Mul(x, x) b = Mul(a, x) y = Div(b, a) }")
    inputs = {"x": np.array([2, 300], np.float16)}
    evaluator = OnnxEvaluator(model)
    assert evaluator.first_not_finite(inputs) == ("a", "a")
    assert evaluator.first_not_finite({"x": np.ones(2)}) is None
    assert not np.isfinite(evaluator.run(inputs)["y"]).all()
    assert OrtGraph(model, "model", threads=1).run(inputs)["y"][0] == 2


def test_an_input_that_does_not_fit_its_type() -> None:
    inputs = {"x": np.array([[1, 2, 1e6]], np.float32)}
    assert OnnxEvaluator(_network()).first_not_finite(inputs) == ("", "x")
    assert OnnxEvaluator(_network(), keep_float32=True).first_not_finite({"x": X}) is None


def test_functions_compute_what_they_say() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 20, "own": 1]> g (float16[2] x) => (float16[2] y) { y = own.twice(x) }'
        '<opset_import: ["": 20], domain: "own"> twice (a) => (b) { square = Mul(a, a) b = Add(square, square) }'
    )
    x = np.array([0.1, 3.3], np.float32)
    square = _half(_half(x) * _half(x))
    np.testing.assert_array_equal(OnnxEvaluator(model).run({"x": x})["y"], _half(square + square))
