"""Pass: rows gathered by a constant come out in the shape that they are wanted in.

A gather of constant rows followed by a reshape that only splits the gathered axis is one gather, whose
indices have that shape. Other reshapes of the same rows read it as well: they name every side themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import onnx_ir as ir

from debiexport.graph.reshapes import target_shape


def shape_gathers(model: ir.Model, keep: Collection[str]) -> None:
    """Merge in place; tensors named in `keep` stay where they are."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1 or node.outputs[0].name in keep:
            continue
        indices = node.inputs[1]
        constant = None if indices is None else ir.convenience.get_const_tensor(indices)
        users = [user for user, _ in node.outputs[0].uses()]
        shapes = [target_shape(user) for user in users]
        if indices is None or constant is None or len(constant.shape) != 1 or None in shapes:
            continue
        tail = _tail(node.outputs[0])
        found = next(
            ((u, lead) for u, s in zip(users, shapes, strict=True) if s and (lead := _lead(s, tail, constant.size))),
            None,
        )
        if found is None or found[0].outputs[0].name in keep or found[0].outputs[0].is_graph_output():
            continue
        reshape, lead = found
        name = f"{node.name}#rows"
        tensor = ir.tensor(constant.numpy().reshape(lead), name=name)
        shaped = ir.Value(name=name, shape=ir.Shape(lead), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(shaped)
        node.replace_input_with(1, shaped)
        node.outputs[0].shape = reshape.outputs[0].shape
        reshape.outputs[0].replace_all_uses_with(node.outputs[0])
        graph.remove(reshape, safe=True)
    for unused in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[unused]


def _tail(value: ir.Value) -> tuple[int, ...] | None:
    """The sides after the second one, if all are known."""
    if value.shape is None:
        return None
    sides = tuple(side for side in value.shape[2:] if isinstance(side, int))
    return sides if len(sides) == len(value.shape) - 2 else None


def _lead(shape: Sequence[int], tail: tuple[int, ...] | None, rows: int) -> tuple[int, ...] | None:
    """What a reshape to (N, *lead, *tail) splits the rows into, or None if that is not what it does."""
    if tail is None or len(shape) <= 2 + len(tail) or 0 in shape or tuple(shape[len(shape) - len(tail) :]) != tail:
        return None
    lead = tuple(shape[1 : len(shape) - len(tail)])
    return lead if prod(lead) == rows and min(lead) > 0 else None
