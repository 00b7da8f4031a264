"""Dropping the definitions of the project's own operators."""

from __future__ import annotations

import onnx
from onnx.helper import make_function, make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from debiexport.graph.functions import drop_functions


def model() -> onnx.ModelProto:
    """Two calls, of functions in two domains."""
    opsets = [make_opsetid("", 20), make_opsetid("debiexport", 1), make_opsetid("other", 1)]
    functions = [
        make_function(domain, "Twice", ["x"], ["y"], [make_node("Add", ["x", "x"], ["y"])], opsets[:1])
        for domain in ("debiexport", "other")
    ]
    nodes = [
        make_node("Twice", ["x"], ["y"], "a", domain="debiexport", aot=1),
        make_node("Twice", ["y"], ["z"], "b", domain="other"),
    ]
    value = [make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xyz"]
    graph = make_graph(nodes, "g", value[:1], value[2:], value_info=value[1:2])
    return make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def test_the_definitions_of_a_domain_go_and_the_calls_stay() -> None:
    before = model()
    after = drop_functions(before)
    assert [function.domain for function in after.functions] == ["other"]
    assert after.graph == before.graph and after.opset_import == before.opset_import
    assert before == model()  # untouched
    assert [function.domain for function in drop_functions(before, "other").functions] == ["debiexport"]


def test_a_model_without_them_stays_as_it_is() -> None:
    once = drop_functions(model())
    assert drop_functions(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
