"""What differs between two graphs, in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from debiexport.graph.differences import compare_graphs, describe_difference
from debiexport.runtimes.base import Array

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3, 1, 1)


def graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], "conv/Conv", pads=[0, 0, 0, 0], strides=[1, 1]),
        helper.make_node("LayerNormalization", ["c", "scale"], ["n"], "norm/LayerNormalization", epsilon=1e-6),
        helper.make_node("Add", ["n", "c"], ["y"], "Add"),
    ]
    constants = [numpy_helper.from_array(WEIGHT, "conv.weight"), numpy_helper.from_array(np.ones(2, "f4"), "scale")]
    built = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 2, 2])],
        constants,
    )
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _epsilon(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute[0].f = 1e-5


def _left_out(model: onnx.ModelProto) -> None:
    del model.graph.node[1].attribute[:]


def _strides(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[1].ints[:] = [2, 2]


def _added_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "VALID"))


def _operation(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "Mul"


def _other_input(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[1] = "n"


def _fewer_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[1].input[1:]


def _one_weight(model: onnx.ModelProto) -> None:
    changed = WEIGHT.copy()
    changed[3, 2] += 0.5
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, "conv.weight"))


@pytest.mark.parametrize(
    ("change", "output", "text"),
    [
        (_epsilon, "n", "attribute epsilon is 1e-05, expected 1e-06"),
        (_left_out, "n", "attribute epsilon is 1e-05, expected 1e-06"),  # the default of ONNX
        (_strides, "c", "attribute strides is [2, 2], expected [1, 1]"),
        (_added_attribute, "c", "attribute auto_pad is VALID, expected NOTSET"),
        (_operation, "y", "the operation is Mul, expected Add"),
        (_other_input, "y", "input 1 is n, expected c"),
        (_fewer_inputs, "n", "it reads 1 tensors, expected 2"),
        (_one_weight, "c", "conv.weight differs in 1 of 12 values, by at most 0.5"),
    ],
)
def test_a_node_that_differs(change: Callable[[onnx.ModelProto], None], output: str, text: str) -> None:
    model = graph()
    change(model)
    found = compare_graphs(model, graph())
    assert found
    assert found.changed == {output: (text,)}
    assert found.structure is None


def test_what_does_not_count() -> None:
    model = graph()
    for node in model.graph.node:
        node.name, node.doc_string = "", "words"
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "renamed"
    scale = model.graph.initializer.pop(1)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["scale"], value=scale))
    model.graph.node[1].attribute.append(helper.make_attribute("group", 1))  # the default
    assert not compare_graphs(model, graph())
    assert not compare_graphs(graph(), model)


def test_nodes_without_a_partner() -> None:
    model = graph()
    model.graph.node.insert(2, helper.make_node("Identity", ["n"], ["copy"]))
    model.graph.node[3].input[0] = "copy"
    found = compare_graphs(model, graph())
    assert (found.added, found.missing) == (("copy",), ())
    assert found.structure == "1 operation is only in it (copy)"
    assert found.changed == {"y": ("input 0 is copy, expected n",)}
    assert compare_graphs(graph(), model).structure == "1 operation is only expected (copy)"


def test_many_nodes_are_not_all_named() -> None:
    model = graph()
    for i in range(5):
        model.graph.node.append(helper.make_node("Identity", ["n"], [f"copy{i}"]))
    assert compare_graphs(model, graph()).structure == "5 operations are only in it (copy0, copy1, copy2, …)"


@pytest.mark.parametrize(
    ("actual", "expected", "text"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), None),
        (np.float32([1, np.nan]), np.float32([1, np.nan]), None),
        (np.float32([1, 2]), np.float32([1, 2.25]), "differs in 1 of 2 values, by at most 0.25"),
        (np.float32([1, np.nan]), np.float32([1, 2]), "differs in 1 of 2 values, by at most nan"),
        (np.int64([3]), np.int64([4]), "is 3, expected 4"),
        (np.float32(-0.1), np.float32(0.1), "is -0.1, expected 0.1"),
        (np.float16([1, 2]), np.float32([1, 2]), "is float16, expected float32"),
        (np.zeros((2, 3), "f4"), np.zeros((3, 2), "f4"), "has the shape [2, 3], expected [3, 2]"),
        (np.array([True, False]), np.array([True, True]), "differs in 1 of 2 values, by at most 1"),
    ],
)
def test_constants(actual: Array, expected: Array, text: str | None) -> None:
    assert describe_difference(np.asarray(actual), np.asarray(expected)) == text
