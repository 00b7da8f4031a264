"""The attentions of a graph: which two matrix products stand around each softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx

_BETWEEN = frozenset({"Add", "Cast", "Identity", "Mul", "Reshape", "Transpose"})


def attention_products(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Names of the node that makes the scores and of the node that weighs the values, for each softmax between such.

    Casts, moves and sums may stand between them. Where several sums meet, the first operand leads back.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def before(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [makers[name] for name in node.input if name in makers]

    def after(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [reader for name in node.output for reader in readers.get(name, [])]

    for node in graph.node:
        if node.op_type == "Softmax":
            scores, weighed = _product(node, before), _product(node, after)
            if scores is not None and weighed is not None:
                yield scores, weighed


def _product(softmax: onnx.NodeProto, neighbours: Callable[[onnx.NodeProto], list[onnx.NodeProto]]) -> str | None:
    """The nearest matrix product in a direction."""
    waiting = neighbours(softmax)
    while waiting:
        node = waiting.pop(0)
        if node.op_type == "MatMul":
            return str(node.name)
        if node.op_type in _BETWEEN:
            waiting = [*neighbours(node), *waiting]
    return None
