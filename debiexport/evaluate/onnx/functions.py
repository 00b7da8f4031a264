"""The functions that a model defines for itself, checked before they are put in place of their calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from debiexport.errors import BundleError

MAX_NODES = 2**18
MAX_DEPTH = 32

_Key = tuple[str, str, str]


def check_functions(model: onnx.ModelProto) -> None:
    """Refuse functions that would not end when put in place, or only after far too many nodes.

    Raises:
        BundleError: a function calls itself, however indirectly; calls lie more than `MAX_DEPTH` deep; or the
            model would have more than `MAX_NODES` nodes.
    """
    functions = {(function.domain, function.name, function.overload): function for function in model.functions}
    known: dict[_Key, tuple[int, int]] = {}

    def extent_of(key: _Key, callers: tuple[_Key, ...]) -> tuple[int, int]:
        """How many nodes a call becomes, and how deep the calls lie."""
        if key in callers or len(callers) >= MAX_DEPTH:
            raise BundleError(f"the function {key[1]!r} of the model calls itself or lies too deep: export it again")
        if key not in known:
            nodes, depth = total(functions[key].node, (*callers, key))
            known[key] = nodes, depth + 1
        return known[key]

    def total(nodes: Iterable[onnx.NodeProto], callers: tuple[_Key, ...]) -> tuple[int, int]:
        keys = ((node.domain, node.op_type, node.overload) for node in _nodes(nodes))
        extents = [extent_of(key, callers) if key in functions else (1, 0) for key in keys]
        return sum(nodes for nodes, _ in extents), max((depth for _, depth in extents), default=0)

    for key in functions:
        if extent_of(key, ())[1] > MAX_DEPTH:
            raise BundleError(f"calls of the function {key[1]!r} lie over {MAX_DEPTH} deep: export the model again")
    count, _ = total(model.graph.node, ())
    if count > MAX_NODES:
        raise BundleError(f"the model has {count} nodes with its functions in place, allowed are {MAX_NODES}")


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)
