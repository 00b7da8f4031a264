"""Pass: casts where float16 and float32 nodes meet, one for each tensor that crosses."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from debiexport.graph.typed.operands import wanted_type

_TO = {np.float16: onnx.TensorProto.FLOAT16, np.float32: onnx.TensorProto.FLOAT}
_SUFFIX = {np.float16: "fp16", np.float32: "fp32"}
_Type = type[np.floating[Any]]


def place_casts(graph: gs.Graph, single: Collection[str]) -> None:
    """Set the type of every floating-point tensor and insert the casts, in place.

    The graph's inputs and outputs keep their names and stay float32; tensors inside keep their names in the type that
    their node gives them. A cast is named after its tensor: `NAME.fp16`, `NAME.fp32`.

    Args:
        single: names of the nodes that stay in float32; the constants of the others are float16 already.
    """
    _type_outputs(graph, single)
    casts: dict[tuple[str, _Type], gs.Variable] = {}
    ordered: list[gs.Node] = []

    def cast(tensor: gs.Variable, to: _Type) -> gs.Variable:
        key = tensor.name, to
        if key not in casts:
            name = f"{tensor.name}.{_SUFFIX[to]}"
            casts[key] = gs.Variable(name, to, tensor.shape)
            ordered.append(gs.Node("Cast", name, {"to": _TO[to]}, [tensor], [casts[key]]))
        return casts[key]

    for node in graph.nodes:
        for place, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Variable) and tensor.dtype in (np.float16, np.float32):
                to = wanted_type(node, place, single)
                if tensor.dtype != to:
                    node.inputs[place] = cast(tensor, to)
        ordered.append(node)
    ordered += [_widened(output) for output in graph.outputs if output.dtype == np.float16]
    graph.nodes[:] = ordered


def _type_outputs(graph: gs.Graph, single: Collection[str]) -> None:
    for node in graph.nodes:
        if node.name not in single:
            for tensor in node.outputs:
                if tensor.dtype == np.float32:
                    tensor.dtype = np.float16


def _widened(output: gs.Variable) -> gs.Node:
    """A cast that gives an output of the graph in float32; what was the output is then `NAME.fp16`."""
    name, maker = output.name, output.inputs[0]
    inner = gs.Variable(f"{name}.{_SUFFIX[np.float16]}", np.float16, output.shape)
    readers = list(output.outputs)
    maker.outputs[maker.outputs.index(output)] = inner
    for node in readers:
        node.inputs = [inner if tensor is output else tensor for tensor in node.inputs]
    output.dtype = np.float32
    return gs.Node("Cast", f"{name}/Cast", {"to": _TO[np.float32]}, [inner], [output])
