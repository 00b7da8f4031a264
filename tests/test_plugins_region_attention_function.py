from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnxruntime
import pytest
from onnx import TensorProto, helper
from region_attention_cases import Array, Case, cases_of, reference

from debiexport.errors import UsageError
from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.plugins.region_attention.function import definition

OneLine = Callable[[BaseException], str]
NAMES = ("q", "k", "v", "routes")
FP32, FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
CASES = [
    Case(2, 3, 16, 3, (3, 6), (6, 9), 5),
    Case(1, 2, 32, 2, (10, 6), (14, 6), 3),
    Case(1, 2, 24, 1, (2, 3), (1, 5), 1),  # a width that the kernel refuses
    *(replace(case, heads=2) for case in cases_of("debi_t")[1::2]),
]


def model_of(case: Case, dtype: int, opset: int = 20, *, any_batch: bool = False, **attributes: int) -> onnx.ModelProto:
    """A model of one RegionAttention node with its definition."""

    def value(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["N" if any_batch else shape[0], *shape[1:]])

    shapes = case.shapes()
    kinds = (dtype, dtype, dtype, TensorProto.INT32)
    attributes = {"heads": case.heads, "regions": case.regions, **attributes}
    node = helper.make_node("RegionAttention", NAMES, ["out"], domain="debiexport", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [value(*each) for each in zip(NAMES, kinds, shapes, strict=True)],
        [value("out", dtype, shapes[0])],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("debiexport", 1)]
    model = helper.make_model(graph, opset_imports=domains, functions=[definition(opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def in_onnxruntime(model: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, inputs)
    return np.asarray(out)


def relative_error(out: Array, expected: Array) -> float:
    return float(np.abs(out - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_in_onnxruntime_and_the_evaluator(case: Case) -> None:
    inputs = case.inputs("fp32")
    expected = reference(*inputs, case.heads, case.regions)
    model, given = model_of(case, FP32), dict(zip(NAMES, inputs, strict=True))
    assert relative_error(in_onnxruntime(model, given), expected) <= 1e-6
    assert relative_error(OnnxEvaluator(model).run(given)["out"], expected) <= 1e-6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float16_in_the_evaluator(case: Case) -> None:
    inputs = case.inputs("fp16")
    expected = reference(*inputs, case.heads, case.regions)
    evaluator = OnnxEvaluator(model_of(case, FP16))
    out = evaluator.run(dict(zip(NAMES, inputs, strict=True)))["out"]
    np.testing.assert_array_equal(out, out.astype(np.float16))
    assert relative_error(out, expected) <= 2e-3


def test_float16_scores_beyond_its_range() -> None:
    case = Case(1, 2, 16, 2, (4, 4), (4, 4), 3)
    q, k, v, routes = case.inputs("fp16")
    inputs = (q * np.float16(300), k * np.float16(300), v, routes)
    expected = reference(*inputs, case.heads, case.regions)
    out = OnnxEvaluator(model_of(case, FP16)).run(dict(zip(NAMES, inputs, strict=True)))["out"]
    assert relative_error(out, expected) <= 2e-3


@pytest.mark.parametrize("opset", [18, 19, 20])
@pytest.mark.parametrize("any_batch", [False, True])
def test_opsets_and_any_batch(opset: int, any_batch: bool) -> None:
    case = CASES[0]
    inputs = case.inputs("fp32")
    given = dict(zip(NAMES, inputs, strict=True))
    expected = reference(*inputs, case.heads, case.regions)
    model = model_of(case, FP32, opset, any_batch=any_batch, aot=1)
    assert relative_error(in_onnxruntime(model, given), expected) <= 1e-6
    evaluator = OnnxEvaluator(model)
    assert evaluator.batch == (None if any_batch else 2)
    assert relative_error(evaluator.run(given)["out"], expected) <= 1e-6


@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_the_shape_of_the_output_is_known_once_inlined(dtype: int) -> None:
    case = CASES[0]
    model = model_of(case, dtype)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inlined = onnx.inliner.inline_local_functions(model)
    assert not inlined.functions
    inferred = onnx.shape_inference.infer_shapes(inlined, check_type=True, strict_mode=True, data_prop=True)
    (out,) = inferred.graph.output
    assert out.type.tensor_type.elem_type == dtype
    assert tuple(dim.dim_value for dim in out.type.tensor_type.shape.dim) == case.shapes()[0]


def test_the_same_definition_every_time() -> None:
    made = definition(20)
    assert made.SerializeToString(deterministic=True) == definition(20).SerializeToString(deterministic=True)
    assert (made.domain, made.name, list(made.attribute)) == ("debiexport", "RegionAttention", ["heads", "regions"])
    assert [attribute.name for attribute in made.attribute_proto] == ["aot"]
    assert not {node.domain for node in made.node} - {""}
    assert len({name for node in made.node for name in node.output}) == len(made.node)


@pytest.mark.parametrize("opset", [17, 21])
def test_another_opset(opset: int, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as error:
        definition(opset)
    assert f"for opset {opset}: give 18 to 20" in one_line(error.value)
