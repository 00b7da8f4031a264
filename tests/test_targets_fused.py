"""The fused operations in ONNX: nodes of the exporter, and definitions that compute them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.defs import OpSchema
from torch import Tensor, nn

from debiexport.plugins.agent_attention import interface as agent_interface
from debiexport.plugins.region_attention import interface as region_interface
from debiexport.runtimes.ort import OrtGraph
from debiexport.targets.fused import (
    AGENT_ATTENTION,
    DOMAIN,
    REGION_ATTENTION,
    VERSION,
    add_definitions,
    translations,
)
from debiexport.targets.quiet import quiet_exporter

FP16, FP32, INT32 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT32
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "RegionAttention": [(1, 8, 8, 16)] * 3,
    "AgentAttention": [(1, 8, 8, 16), (1, 3, 3, 16), (1, 3, 3, 16)],
}
MORE: dict[str, list[tuple[str, int, tuple[int, ...]]]] = {
    "RegionAttention": [("routes", INT32, (1, 4, 2))],
    "AgentAttention": [("positions", FP32, (1, 1, 9, 2)), ("table", FP32, (1, 15, 15))],
}


def call(name: str, dtype: int = FP32, opset: int = 20) -> onnx.ModelProto:
    """A model of one call."""
    values = [(key, dtype, shape) for key, shape in zip("qkv", SHAPES[name], strict=True)] + MORE[name]
    attributes: dict[str, Any] = {"heads": 1, "regions": 2} if name == "RegionAttention" else {"heads": 1}
    node = helper.make_node(name, [key for key, _, _ in values], ["out"], f"x/{name}", domain=DOMAIN, **attributes)
    inputs = [helper.make_tensor_value_info(*value) for value in values]
    outputs = [helper.make_tensor_value_info("out", dtype, SHAPES[name][0])]
    graph = helper.make_graph([node], "call", inputs, outputs)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("schema", "interface"),
    [(REGION_ATTENTION, region_interface.INTERFACE), (AGENT_ATTENTION, agent_interface.INTERFACE)],
)
def test_nodes_are_those_that_the_plugins_take(schema: OpSchema, interface: object) -> None:
    told = {"inputs": dict(vars(interface)["inputs"]), "attributes": vars(interface)["attributes"]}
    assert schema.name == vars(interface)["name"]
    assert [parameter.name for parameter in schema.inputs] == list(told["inputs"])
    types = {"T": "T", "tensor(float)": "FP32", "tensor(int32)": "INT32"}
    assert [types[parameter.type_str] for parameter in schema.inputs] == list(told["inputs"].values())
    assert set(schema.attributes) == set(told["attributes"])
    plugins = importlib.import_module("debiexport.plugins.interface")
    assert (schema.domain, str(schema.since_version)) == (plugins.NAMESPACE, plugins.VERSION) == (DOMAIN, str(VERSION))


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize("name", ["RegionAttention", "AgentAttention"])
def test_definitions_make_a_whole_model(name: str, dtype: int, opset: int) -> None:
    model = call(name, dtype, opset)
    add_definitions(model)
    assert [(function.domain, function.name) for function in model.functions] == [(DOMAIN, name)]
    onnx.checker.check_model(model, full_check=True)
    random = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        kind, shape = value.type.tensor_type.elem_type, [d.dim_value for d in value.type.tensor_type.shape.dim]
        drawn = random.integers(0, 4, shape) if kind == INT32 else random.normal(size=shape).clip(-1, 1)
        feeds[value.name] = drawn.astype(helper.tensor_dtype_to_np_dtype(kind))
    (out,) = OrtGraph(model, "x", threads=1).run(feeds).values()
    assert out.shape == SHAPES[name][0] and np.isfinite(out).all()


def test_each_definition_once_and_only_where_it_is_called() -> None:
    model = call("RegionAttention")
    again = onnx.NodeProto()
    again.CopyFrom(model.graph.node[0])
    again.name, again.output[0] = "again", "more"
    model.graph.node.append(again)
    add_definitions(model)
    assert [function.name for function in model.functions] == ["RegionAttention"]
    plain = helper.make_model(helper.make_graph([], "empty", [], []), opset_imports=[helper.make_opsetid("", 20)])
    add_definitions(plain)
    assert not plain.functions


class Both(nn.Module):
    def forward(self, q: Tensor, k: Tensor, routes: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        ops = torch.ops.debiexport
        out: Tensor = ops.region_attention(q, q, q, routes, 1, 2)
        out = out + ops.agent_attention(q, k, k, positions, table, 1)
        return out


def test_the_exporter_writes_one_node_for_each() -> None:
    table = translations()  # which registers the operators
    inputs = (
        torch.zeros(1, 8, 8, 16),
        torch.zeros(1, 3, 3, 16),
        torch.zeros(1, 4, 2, dtype=torch.int32),
        torch.zeros(1, 1, 9, 2),
        torch.zeros(1, 15, 15),
    )
    with quiet_exporter():
        program = torch.onnx.export(
            Both().eval(), inputs, dynamo=True, opset_version=20, custom_translation_table=table, verbose=False
        )
    assert program is not None
    nodes = {node.op_type: node for node in program.model_proto.graph.node if node.domain == DOMAIN}
    attributes = {name: {a.name: a.i for a in node.attribute} for name, node in nodes.items()}
    assert attributes == {"RegionAttention": {"heads": 1, "regions": 2}, "AgentAttention": {"heads": 1}}
    assert [len(node.input) for node in nodes.values()] == [4, 5]
