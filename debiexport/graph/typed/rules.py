"""What a strongly typed compiler takes: the rules of TensorRT's parser, checked on the saved types.

one type          all floating-point operands of a node are of one type, a norm's scale and a grid included
known types       every tensor has a type, and a rank of at most 8
constant k        top-k's k is a constant of at most 3840
bilinear          a GridSample says so in a way that every parser reads, see `graph.grid_samples`
nothing constant  every node reads something that depends on an input
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, numpy_helper

from debiexport.errors import DebiexportError
from debiexport.graph.typed.operands import FLOAT32_OPERANDS

MAX_RANK = 8
MAX_K = 3840
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_SHOWN = 3

_Types = Mapping[str, tuple[int, int | None]]


def check_rules(model: onnx.ModelProto) -> None:
    """Refuse a model that a strongly typed compiler would refuse, or misread.

    Args:
        model: with the type of every tensor.

    Raises:
        DebiexportError: naming the nodes.
    """
    broken = list(broken_rules(model))
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise DebiexportError(f"the typed graph breaks rules of TensorRT: {'; '.join(broken[:_SHOWN])}{more}")


def broken_rules(model: onnx.ModelProto) -> Iterator[str]:
    """A sentence for each rule that a node breaks."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    types = _types(graph)
    for node in graph.node:
        for name in node.output:
            if name and name not in types:
                yield f"{node.name} gives {name!r}, whose type is unknown"
            elif name and types[name][1] is None:
                yield f"{node.name} gives {name!r}, whose rank is unknown"
            elif name and (types[name][1] or 0) > MAX_RANK:
                yield f"{node.name} gives {name!r} of rank {types[name][1]}, the largest is {MAX_RANK}"
        floats = {name for name in _same_type(node) if name in types and types[name][0] in _FLOATS}
        if node.op_type != "Cast" and len({types[name][0] for name in floats}) > 1:
            yield f"{node.name} reads float16 and float32"
        if node.op_type == "TopK":
            yield from _top_k(node, constants)
        if node.op_type == "GridSample" and any(a.name == "mode" and a.s == b"linear" for a in node.attribute):
            yield f"{node.name} has mode=linear, which older parsers read as nearest"
        if all(name in constants for name in node.input):
            yield f"{node.name} reads constants only"


def _same_type(node: onnx.NodeProto) -> Iterator[str]:
    """Inputs that have to be of one floating-point type."""
    for place, name in enumerate(node.input):
        if name and place not in FLOAT32_OPERANDS.get(node.op_type, ()):
            yield name


def _top_k(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> Iterator[str]:
    if node.input[1] not in constants:
        yield f"{node.name} takes its k from the graph"
    elif (k := int(numpy_helper.to_array(constants[node.input[1]]).item())) > MAX_K:
        yield f"{node.name} has k {k}, the largest is {MAX_K}"


def _types(graph: onnx.GraphProto) -> _Types:
    """Element type and rank of every tensor; None where a tensor has no shape."""
    values = (*graph.value_info, *graph.input, *graph.output)
    types: dict[str, tuple[int, int | None]] = {
        value.name: (tensor.elem_type, len(tensor.shape.dim) if tensor.HasField("shape") else None)
        for value in values
        if (tensor := value.type.tensor_type).elem_type
    }
    return types | {tensor.name: (tensor.data_type, len(tensor.dims)) for tensor in graph.initializer}
