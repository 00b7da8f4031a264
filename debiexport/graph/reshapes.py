"""Pass: remove reshapes that another reshape makes useless.

A reshape of a reshape is one reshape of the source; two equal reshapes of one tensor are one. The target
shape of the outer one must not copy a dimension of its input (a 0 in it), and may hold one -1: the number
of elements is that of the source.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir


def merge_reshapes(model: ir.Model, keep: Collection[str]) -> None:
    """Merge in place; tensors named in `keep` stay where they are."""
    graph = model.graph
    seen: dict[tuple[int, tuple[int, ...]], ir.Value] = {}
    for node in list(graph):
        shape = target_shape(node)
        if shape is None:
            continue
        source = node.inputs[0]
        assert source is not None
        producer = source.producer()
        while producer is not None and producer.op_type == "Reshape" and 0 not in shape:
            source = producer.inputs[0]
            assert source is not None
            node.replace_input_with(0, source)
            producer = source.producer()
        key = (id(source), shape)
        twin = seen.setdefault(key, node.outputs[0])
        if twin is not node.outputs[0] and node.outputs[0].name not in keep and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(twin)
    for node in reversed(list(graph)):
        unused = not node.outputs[0].uses() and not node.outputs[0].is_graph_output()
        if node.op_type == "Reshape" and unused and node.outputs[0].name not in keep:
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def target_shape(node: ir.Node) -> tuple[int, ...] | None:
    """The constant shape of a reshape, or None if it is none."""
    if node.op_type != "Reshape" or node.inputs[1] is None:
        return None
    constant = ir.convenience.get_const_tensor(node.inputs[1])
    return None if constant is None else tuple(int(side) for side in constant.numpy())
