"""The fused operations in ONNX: how the exporter writes them, and what they mean to whoever has no kernel for them.

Their nodes are in the domain `debiexport`. A model that has some brings their definitions along as functions, so that
any runtime computes them; TensorRT takes the plugins of the same names instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx.defs import OpSchema

DOMAIN, VERSION = "debiexport", 1
_ELEMENT = ("T", ["tensor(float)", "tensor(float16)"], "of queries, keys, values and what comes out")
_FLOAT, _INT = "tensor(float)", "tensor(int32)"


def _schema(name: str, inputs: dict[str, str], attributes: tuple[str, ...]) -> OpSchema:
    return OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[OpSchema.FormalParameter(key, kind) for key, kind in inputs.items()],
        outputs=[OpSchema.FormalParameter("out", "T")],
        type_constraints=[_ELEMENT],
        attributes=[OpSchema.Attribute(key, OpSchema.AttrType.INT, "") for key in attributes],
    )


REGION_ATTENTION = _schema("RegionAttention", {"q": "T", "k": "T", "v": "T", "routes": _INT}, ("heads", "regions"))
AGENT_ATTENTION = _schema(
    "AgentAttention", {"q": "T", "k": "T", "v": "T", "positions": _FLOAT, "table": _FLOAT}, ("heads",)
)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch's exporter: the node that each operator becomes."""
    import torch
    from onnxscript import values

    # Importing them registers the operators.
    import debiexport.plugins.agent_attention.op
    import debiexport.plugins.region_attention.op  # noqa: F401

    domain = values.Opset(DOMAIN, VERSION)
    region_node = values.Op(domain, REGION_ATTENTION.name, REGION_ATTENTION)
    agent_node = values.Op(domain, AGENT_ATTENTION.name, AGENT_ATTENTION)

    def region(q: Any, k: Any, v: Any, routes: Any, heads: int, regions: int) -> Any:
        return region_node(q, k, v, routes, heads=heads, regions=regions)

    def agent(q: Any, k: Any, v: Any, positions: Any, table: Any, heads: int) -> Any:
        return agent_node(q, k, v, positions, table, heads=heads)

    ops = torch.ops.debiexport
    return {ops.region_attention.default: region, ops.agent_attention.default: agent}


def add_definitions(model: onnx.ModelProto) -> None:
    """Append the definitions of the fused operations that a model has, in place."""
    found = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    if not found:
        return
    from debiexport.plugins.agent_attention.function import definition as agent_definition
    from debiexport.plugins.region_attention.function import definition as region_definition

    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    made = {"AgentAttention": agent_definition, "RegionAttention": region_definition}
    model.functions.extend(made[name](opset) for name in sorted(found))
