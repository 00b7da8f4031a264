"""The graph passes on a graph of three nodes, as the exporter would leave it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from debiexport._version import __version__
from debiexport.graph.gathers import shape_gathers
from debiexport.graph.grid_samples import drop_default_mode
from debiexport.graph.hats import fuse_hats
from debiexport.graph.metadata import write_metadata
from debiexport.graph.outputs import keep_outputs
from debiexport.graph.reshapes import merge_reshapes
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


def _model(text: str) -> ir.Model:
    return ir.serde.deserialize_model(onnx.parser.parse_model(text))


def _run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    return list(session.run(None, inputs))


RESHAPES = """
<ir_version: 10, opset_import: ["" : 20]>
chain (float[2, 6] x) => (float[3, 4] y, float[12] z)
<int64[2] a = {-1, 3}, int64[2] b = {3, 4}, int64[1] c = {12}, int64[2] d = {0, 4}>
{
    p = Reshape(x, a)
    q = Reshape(p, b)
    r = Reshape(x, b)
    s = Add(q, r)
    kept = Reshape(s, a)
    t = Reshape(kept, b)
    y = Reshape(t, d)
    z = Reshape(t, c)
}
"""


def test_reshapes_of_reshapes_are_one() -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    wanted = _run(_model(RESHAPES), x=x)
    model = _model(RESHAPES)
    merge_reshapes(model, ["kept"])
    for got, value in zip(_run(model, x=x), wanted, strict=True):
        np.testing.assert_array_equal(got, value)
    names = [node.outputs[0].name for node in model.graph]
    assert "p" not in names, "skipped by its only reader"
    assert ("q" in names) != ("r" in names), "equal reshapes of one tensor are one"
    assert "kept" in names
    assert {node.inputs[0].name for node in model.graph if node.outputs[0].name in ("t", "z")} == {"s"}
    y = next(node for node in model.graph if node.outputs[0].name == "y")
    assert y.inputs[0].name == "t", "a shape that copies a dimension of its input is left alone"


def test_constants_that_nobody_reads_go() -> None:
    model = _model(RESHAPES)
    merge_reshapes(model, [])
    assert "a" not in model.graph.initializers


HATS = """
<ir_version: 10, opset_import: ["" : 20]>
hats (float[7] x) => (float[7] y, float[7] shown)
<float one = {1.0}, float two = {2.0}>
{
    a = Abs(x)
    d = Sub(one, a)
    h = Relu(d)
    e = Sub(two, a)
    g = Relu(e)
    f = Sub(one, a)
    shown = Relu(f)
    y = Add(h, g)
}
"""


def test_hats_are_one_operation_less_and_the_same_to_the_bit() -> None:
    x = np.array([-2, -1, -0.3, 0, 0.1, 0.999, 1.5], np.float32)
    model = _model(HATS)
    fuse_hats(model, [])
    for got, wanted in zip(_run(model, x=x), _run(_model(HATS), x=x), strict=True):
        np.testing.assert_array_equal(got, wanted)
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds == {"Abs": 1, "HardSigmoid": 1, "Sub": 2, "Relu": 2, "Add": 1}, "2 - |x| and an output stay"


def test_hats_with_a_name_of_their_own_stay() -> None:
    model = _model(HATS)
    fuse_hats(model, ["h"])
    assert "HardSigmoid" not in {node.op_type for node in model.graph}


@pytest.mark.parametrize(("mode", "left"), [("linear", None), ("nearest", "nearest"), ("bilinear", "bilinear")])
def test_the_default_mode_of_grid_sample_goes(mode: str, left: str | None) -> None:
    model = _model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        sample (float[1, 1, 4, 4] x, float[1, 2, 2, 2] grid) => (float[1, 1, 2, 2] y)
        { y = GridSample <mode = "MODE", align_corners = 1> (x, grid) }
        """.replace("MODE", mode)
    )
    drop_default_mode(model)
    (node,) = model.graph
    assert (node.attributes["mode"].as_string() if "mode" in node.attributes else None) == left
    assert node.attributes["align_corners"].as_int() == 1


GATHERS = """
<ir_version: 10, opset_import: ["" : 20]>
heads (float[n, 2, 6] x) => (float[n, 2, 2, 3] y, float[n, 12] z, float[n, 2, 2, 3] w)
<int64[4] rows = {3, 1, 0, 2}, int64[3] tokens = {-1, 4, 3}, int64[4] lead = {-1, 2, 2, 3}, int64[2] flat = {-1, 12}>
{
    r = Reshape(x, tokens)
    g = Gather <axis = 1> (r, rows)
    y = Reshape(g, lead)
    s = Gather <axis = 1> (r, rows)
    t = Reshape(s, lead)
    z0 = Reshape(s, flat)
    z = Abs(z0)
    w = Abs(t)
}
"""


def test_gathered_rows_come_out_in_their_shape() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 2, 6)
    wanted = _run(_model(GATHERS), x=x)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(GATHERS)))
    shape_gathers(model, [])
    for got, value in zip(_run(model, x=x), wanted, strict=True):
        np.testing.assert_array_equal(got, value)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["Reshape"] == 3, "one became the gather; a graph output and a flat view stay"
    shapes = [tuple(node.inputs[1].shape) for node in model.graph if node.op_type == "Gather"]
    assert sorted(shapes) == [(2, 2), (4,)]


def test_a_gather_that_is_read_as_it_is_stays() -> None:
    text = GATHERS.replace("t = Reshape(s, lead)", "t = Identity(y)").replace(
        "z0 = Reshape(s, flat)", "z1 = Abs(s) z0 = Reshape(z1, flat)"
    )
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    shape_gathers(model, [])
    assert all(node.inputs[1].shape == (4,) for node in model.graph if node.op_type == "Gather")
