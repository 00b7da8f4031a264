"""The graph passes on a graph of three nodes, as the exporter would leave it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from debiexport._version import __version__
from debiexport.graph.metadata import write_metadata
from debiexport.graph.outputs import keep_outputs
from debiexport.graph.scopes import SCOPES, name_places


def _node(op: str, inputs: list[ir.Value], name: str, scopes: list[str] | None) -> ir.Node:
    node = ir.Node(
        "", op, inputs, name=name, outputs=[ir.Value(name=f"value_{name}", type=ir.TensorType(ir.DataType.FLOAT))]
    )
    if scopes is not None:
        node.metadata_props[SCOPES] = repr(scopes)
    node.metadata_props["pkg.torch.onnx.stack_trace"] = "File /home/somebody/network.py"
    return node


@pytest.fixture
def model() -> ir.Model:
    x = ir.val("images", ir.DataType.FLOAT, [1, 2])
    weight = ir.Value(name="root.stage1.fc.weight", const_value=ir.tensor(np.ones((2, 2), np.float32)))
    constant = ir.Value(name="val_7", const_value=ir.tensor(np.ones(2, np.float32)))
    inside = ["", "root", "root.stage1", "root.stage1.fc", "node"]
    first = _node("MatMul", [x, weight], "a", inside)
    second = _node("Add", [first.outputs[0], constant], "b", inside)
    third = _node("Add", [second.outputs[0], constant], "c", inside)
    last = _node("Relu", [third.outputs[0]], "d", None)
    second.outputs[0].name = "stage1.affinity"
    last.outputs[0].name = "logits"
    graph = ir.Graph(
        [x],
        [last.outputs[0], second.outputs[0]],
        nodes=[first, second, third, last],
        initializers=[weight, constant],
        opset_imports={"": 20},
        name="main_graph",
    )
    return ir.Model(graph, ir_version=10)


def test_nodes_are_named_after_their_place(model: ir.Model) -> None:
    name_places(model, "root", ["stage1.affinity"])
    assert [node.name for node in model.graph] == [
        "stage1.fc/MatMul",
        "stage1.fc/Add",
        "stage1.fc/Add_2",
        "network/Relu",
    ]
    assert [node.outputs[0].name for node in model.graph] == [
        "stage1.fc/MatMul",
        "stage1.affinity",
        "stage1.fc/Add_2",
        "logits",
    ]


def test_weights_are_named_after_their_layer_and_constants_after_their_reader(model: ir.Model) -> None:
    name_places(model, "root", ["stage1.affinity"])
    assert sorted(model.graph.initializers) == ["stage1.fc.weight", "stage1.fc/Add#1"]
    assert all(name == value.name for name, value in model.graph.initializers.items())


def test_only_the_network_outputs_stay(model: ir.Model) -> None:
    keep_outputs(model, ["logits"])
    assert [value.name for value in model.graph.outputs] == ["logits"]
    assert "stage1.affinity" in {node.outputs[0].name for node in model.graph}


def test_metadata_says_what_it_is_and_nothing_of_the_machine(model: ir.Model) -> None:
    model.metadata_props["left"] = "over"
    write_metadata(model, "tiny", {"card": "{}"})
    assert model.metadata_props == {"debiexport.card": "{}"}
    assert (model.producer_name, model.producer_version, model.graph.name) == ("debiexport", __version__, "tiny")
    assert b"somebody" not in ir.serde.serialize_model(model).SerializeToString()
