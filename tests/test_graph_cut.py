"""Stretches of a graph: what is inside, what they are given, and that they compute what the whole computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from debiexport.errors import BundleError
from debiexport.graph.cut import computed, cut, original
from debiexport.runtimes.base import Array
from debiexport.runtimes.ort import OrtGraph

X = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], np.float32)


def whole(*, typed: bool = True) -> onnx.ModelProto:
    """x -> a = x * w -> b = relu(a) -> (best, choice) = top-2 of b -> y = gather-like use of choice + b's sum."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], "first/Mul"),
        helper.make_node("Relu", ["a"], ["b"], "first/Relu"),
        helper.make_node("TopK", ["b", "k"], ["best", "choice"], "second/TopK"),
        helper.make_node("Neg", ["x"], ["aside"], "aside/Neg"),
        helper.make_node("GatherElements", ["b", "choice"], ["picked"], "second/GatherElements", axis=1),
        helper.make_node("Add", ["picked", "best"], ["sum"], "second/Add"),
        helper.make_node("Add", ["sum", "one"], ["y"], "second/Add_2"),
    ]
    constants = [
        numpy_helper.from_array(np.array([2.0, 1.0, 0.5], np.float32), "w"),
        numpy_helper.from_array(np.array([2], np.int64), "k"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    kinds = {"a": TensorProto.FLOAT, "b": TensorProto.FLOAT, "choice": TensorProto.INT64, "sum": TensorProto.FLOAT}
    infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()] if typed else []
    graph = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        constants,
        value_info=infos,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, **inputs: Array) -> dict[str, Array]:
    return OrtGraph(model, "a stretch", threads=1).run(inputs)


def inputs_of(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.input]


def outputs_of(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output]


def test_everything_that_a_target_needs() -> None:
    model = whole()
    before = model.SerializeToString()
    stretch = cut(model, [], ["sum"])
    assert inputs_of(stretch) == ["x"]
    assert outputs_of(stretch) == ["a", "b", "best", "choice", "picked", "sum"]
    assert {tensor.name for tensor in stretch.graph.initializer} == {"w", "k"}
    b = np.maximum(X * [2, 1, 0.5], 0)
    results = run(stretch, x=X)
    np.testing.assert_array_equal(results["b"], b)
    np.testing.assert_array_equal(results["sum"], 2 * -np.sort(-b, axis=1)[:, :2])
    assert model.SerializeToString() == before


def test_a_stretch_begins_at_its_sources() -> None:
    stretch = cut(whole(), ["b"], ["y"])
    assert inputs_of(stretch) == ["b"]
    assert [node.name for node in stretch.graph.node] == [
        "second/TopK",
        "second/GatherElements",
        "second/Add",
        "second/Add_2",
    ]
    np.testing.assert_array_equal(run(stretch, b=X)["y"], [[7, 3], [11, 9]])


def test_a_source_that_the_stretch_computes_is_given_and_computed() -> None:
    """A top-k is needed for its values, while its choice is forced."""
    stretch = cut(whole(), ["b", "choice"], ["y", "choice"])
    assert set(inputs_of(stretch)) == {"b", "choice"}
    assert computed("choice") in outputs_of(stretch)
    assert original(computed("choice")) == original("choice") == "choice"
    forced = np.array([[1, 1], [2, 2]])
    results = run(stretch, b=X, choice=forced)
    np.testing.assert_array_equal(results[computed("choice")], [[2, 0], [1, 0]])
    np.testing.assert_array_equal(results["picked"], [[-2, -2], [-6, -6]])


def test_sources_that_are_not_read_are_no_inputs() -> None:
    assert inputs_of(cut(whole(), ["a", "b", "sum", "aside"], ["y"])) == ["sum"]


@pytest.mark.parametrize("typed", [True, False])
def test_inputs_are_typed(typed: bool) -> None:
    stretch = cut(whole(typed=typed), ["b", "choice"], ["y"])
    kinds = {value.name: value.type.tensor_type.elem_type for value in stretch.graph.input}
    assert kinds == {"b": TensorProto.FLOAT, "choice": TensorProto.INT64}


@pytest.mark.parametrize("name", ["nothing", "x", "w"])
def test_a_target_that_no_node_computes(name: str) -> None:
    with pytest.raises(BundleError, match=f"computes no tensor '{name}'"):
        cut(whole(), [], [name])


def test_a_type_that_cannot_be_known() -> None:
    model = whole(typed=False)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Unheard", "somebody"
    with pytest.raises(BundleError, match="of which type 'b' is"):
        cut(model, ["b"], ["y"])


def test_what_only_a_subgraph_reads_is_needed_too() -> None:
    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Neg", ["a"], [name])], name, [], [output])

    model = whole()
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["z"], "If", then_branch=branch("then"), else_branch=branch("else"))
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    stretch = cut(model, [], ["z"])
    assert [node.name for node in stretch.graph.node] == ["first/Mul", "If"]
    np.testing.assert_array_equal(run(stretch, x=X)["z"], -X * np.array([2, 1, 0.5], np.float32))
    assert inputs_of(cut(model, ["a"], ["z"])) == ["a"]


def test_outputs_that_are_left_out_stay_out() -> None:
    model = whole()
    model.graph.node[2].output[0] = ""
    model.graph.node[5].input[1] = "picked"
    assert outputs_of(cut(model, ["b"], ["choice"])) == ["choice"]
