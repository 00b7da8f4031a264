"""Pass: rename every node and tensor after the place in the network that it computes.

The exporter numbers its nodes in the order of tracing. Afterwards a node is
`stage3.block2.attn2.offset/Conv` (a number follows where a place has several of a kind), its output has
the node's name, and a weight the name of the layer that holds it. Tensors listed in `keep`, graph inputs
and outputs keep theirs.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"


def name_places(model: ir.Model, root: str, keep: Collection[str]) -> None:
    """Rename in place.

    Args:
        model: as the exporter left it, its metadata still there.
        root: attribute under which the traced module holds the network.
        keep: names of tensors that are already stable.
    """
    graph = model.graph
    seen: Counter[str] = Counter()
    for node in graph:
        place = f"{_scope(node, root)}/{node.op_type}"
        seen[place] += 1
        node.name = place if seen[place] == 1 else f"{place}_{seen[place]}"
    fixed = set(keep) | {v.name for v in (*graph.inputs, *graph.outputs)}
    _rename_initializers(graph, root)
    for node in graph:
        for i, value in enumerate(node.outputs):
            if value.name not in fixed:
                value.name = node.name if i == 0 else f"{node.name}:{i}"


def _scope(node: ir.Node, root: str) -> str:
    """Dotted path of the innermost module of the network that a node was traced in."""
    text = node.metadata_props.get(SCOPES)
    for scope in reversed(ast.literal_eval(text)[:-1] if text else []):  # the last entry is the node itself
        if str(scope).startswith(f"{root}."):
            return str(scope).removeprefix(f"{root}.")
    return "network"


def _rename_initializers(graph: ir.Graph, root: str) -> None:
    """Parameters by their path; constants that the exporter made, by their first reader."""
    readers: dict[str, str] = {}
    for node in graph:
        for i, value in enumerate(node.inputs):
            if value is not None and value.name is not None and value.name in graph.initializers:
                readers.setdefault(value.name, f"{node.name}#{i}")
    for name, value in list(graph.initializers.items()):
        stable = name.removeprefix(f"{root}.") if name.startswith(f"{root}.") else readers.get(name)
        if stable is None:
            continue
        del graph.initializers[name]
        value.name = stable
        graph.register_initializer(value)
