"""Pass: the hat function relu(1 - |z|) as two operations instead of three.

HardSigmoid with alpha = -1, beta = 1 is min(1, max(0, 1 - y)), which for y = |z| is the hat to the bit.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir


def fuse_hats(model: ir.Model, keep: Collection[str]) -> None:
    """Replace Relu(Sub(1, Abs(z))) by HardSigmoid(Abs(z)), in place; tensors named in `keep` stay."""
    for relu in list(model.graph):
        difference = _only_producer(relu, "Relu", 0, "Sub", keep)
        if difference is None or not _is_one(difference.inputs[0]):
            continue
        magnitude = difference.inputs[1]
        producer = magnitude.producer() if magnitude is not None else None
        if magnitude is None or producer is None or producer.op_type != "Abs":
            continue
        fused = ir.Node(
            "",
            "HardSigmoid",
            [magnitude],
            [ir.AttrFloat32("alpha", -1.0), ir.AttrFloat32("beta", 1.0)],
            name=relu.name.replace("Relu", "HardSigmoid") if relu.name else None,
        )
        old, new = relu.outputs[0], fused.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        model.graph.insert_before(relu, fused)
        old.replace_all_uses_with(new)
        model.graph.remove(relu, safe=True)
        model.graph.remove(difference, safe=True)


def _only_producer(node: ir.Node, kind: str, index: int, wanted: str, keep: Collection[str]) -> ir.Node | None:
    """The node of type `wanted` that alone feeds input `index` of a node of type `kind`, and nobody else."""
    if node.op_type != kind or node.outputs[0].name in keep or node.outputs[0].is_graph_output():
        return None
    value = node.inputs[index]
    producer = value.producer() if value is not None else None
    if value is None or producer is None or producer.op_type != wanted or len(value.uses()) != 1:
        return None
    return None if value.name in keep or value.is_graph_output() else producer


def _is_one(value: ir.Value | None) -> bool:
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    return constant is not None and constant.numpy().size == 1 and float(constant.numpy().reshape(())) == 1.0
