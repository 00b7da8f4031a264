from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnxruntime
import pytest
from agent_attention_cases import TOLERANCE, Array, Case, cases_of, error, reference
from onnx import TensorProto, helper

from debiexport.errors import UsageError
from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.plugins.agent_attention.function import definition

OneLine = Callable[[BaseException], str]
NAMES = ("q", "k", "v", "positions", "table")
FP32, FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
CASES = [
    Case(2, 4, 16, 2, (9, 6), (5, 3), 7),
    Case(1, 2, 32, 1, (20, 36), (7, 7), 14),
    Case(1, 2, 24, 2, (2, 3), (1, 1), 2),  # a width that the kernel refuses
    *(replace(case, heads=2, groups=min(case.groups, 2)) for case in cases_of("debi_t")),
]


def model_of(case: Case, dtype: int, opset: int = 20, *, any_batch: bool = False, **attributes: int) -> onnx.ModelProto:
    """A model of one AgentAttention node with its definition."""

    def value(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        batch = "N" if any_batch and name != "table" else shape[0]
        return helper.make_tensor_value_info(name, kind, [batch, *shape[1:]])

    shapes = case.shapes()
    kinds = (dtype, dtype, dtype, FP32, FP32)
    attributes = {"heads": case.heads, **attributes}
    node = helper.make_node("AgentAttention", NAMES, ["out"], domain="debiexport", **attributes)
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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_in_onnxruntime_and_the_evaluator(case: Case) -> None:
    inputs = case.inputs("fp32")
    expected = reference(*inputs)
    model, given = model_of(case, FP32), dict(zip(NAMES, inputs, strict=True))
    assert error(in_onnxruntime(model, given), expected) <= TOLERANCE["fp32"]
    assert error(OnnxEvaluator(model).run(given)["out"], expected) <= TOLERANCE["fp32"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float16_in_the_evaluator(case: Case) -> None:
    inputs = case.inputs("fp16")
    out = OnnxEvaluator(model_of(case, FP16)).run(dict(zip(NAMES, inputs, strict=True)))["out"]
    np.testing.assert_array_equal(out, out.astype(np.float16))
    assert error(out, reference(*inputs)) <= TOLERANCE["fp16"]


def test_float16_scores_beyond_its_range() -> None:
    q, k, *rest = CASES[0].inputs("fp16")
    inputs = (q * np.float16(300), k * np.float16(300), *rest)
    out = OnnxEvaluator(model_of(CASES[0], FP16)).run(dict(zip(NAMES, inputs, strict=True)))["out"]
    assert error(out, reference(*inputs)) <= TOLERANCE["fp16"]


@pytest.mark.parametrize("opset", [18, 19, 20])
@pytest.mark.parametrize("any_batch", [False, True])
def test_opsets_and_any_batch(opset: int, any_batch: bool) -> None:
    case = CASES[0]
    inputs = case.inputs("fp32")
    given = dict(zip(NAMES, inputs, strict=True))
    expected = reference(*inputs)
    model = model_of(case, FP32, opset, any_batch=any_batch, aot=1)
    assert error(in_onnxruntime(model, given), expected) <= TOLERANCE["fp32"]
    evaluator = OnnxEvaluator(model)
    assert evaluator.batch == (None if any_batch else 2)
    assert error(evaluator.run(given)["out"], expected) <= TOLERANCE["fp32"]


@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_the_shape_of_the_output_is_known_once_inlined(dtype: int) -> None:
    model = model_of(CASES[0], dtype)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inlined = onnx.inliner.inline_local_functions(model)
    assert not inlined.functions
    inferred = onnx.shape_inference.infer_shapes(inlined, check_type=True, strict_mode=True, data_prop=True)
    (out,) = inferred.graph.output
    assert out.type.tensor_type.elem_type == dtype
    assert tuple(dim.dim_value for dim in out.type.tensor_type.shape.dim) == CASES[0].shapes()[0]


def test_the_same_definition_every_time() -> None:
    made = definition(20)
    assert made.SerializeToString(deterministic=True) == definition(20).SerializeToString(deterministic=True)
    assert (made.domain, made.name, list(made.attribute)) == ("debiexport", "AgentAttention", ["heads"])
    assert [attribute.name for attribute in made.attribute_proto] == ["aot"]
    assert not {node.domain for node in made.node} - {""}
    assert len({name for node in made.node for name in node.output}) == len(made.node)


@pytest.mark.parametrize("opset", [17, 21])
def test_another_opset(opset: int, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as error:
        definition(opset)
    assert f"for opset {opset}: give 18 to 20" in one_line(error.value)
