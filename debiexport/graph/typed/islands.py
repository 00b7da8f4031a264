"""Which nodes of a half-precision graph stay in float32, found by the stable names of their places.

Rounding costs most where a small error jumps or moves things: the choice of regions is a comparison, and positions in
float16 have steps of 1/32 pixel among 56. So these stay in float32:

    region descriptors, affinities, top-k      routing, back from the affinity to where the place begins
    offsets, positions                         after the convolution of the offset network
    sampling weights, the position bias        whatever computes them
    softmax                                    and the sum of scores and bias before it
    a sampling operation                       its map and its grid have to be of one type

Layer norms run in float16 with statistics in float32, which ONNX calls their stash type.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from debiexport.names import AFFINITY

_KINDS = frozenset({"Cast", "Constant", "ConstantOfShape", "GridSample", "Range", "Softmax", "TopK"})
_PLACES = frozenset({"bias", "pixels", "positions"})


def float32_nodes(graph: gs.Graph) -> set[str]:
    """Names of the nodes that stay in float32."""
    by_rule = {node.name for node in graph.nodes if node.op in _KINDS or _in_place(node)}
    return by_rule | _routing(graph)


def place_of(node: gs.Node) -> str:
    """Dotted path of the module that a node computes; see `graph.scopes`."""
    return str(node.name).rpartition("/")[0]


def _in_place(node: gs.Node) -> bool:
    parts = place_of(node).split(".")
    if _PLACES & set(parts) or {"sampling", "weights"} <= set(parts):
        return True
    if "offset" in parts:
        return parts[-1] != "conv"
    return parts[-1] == "broadcast" and node.op == "Add"


def _routing(graph: gs.Graph) -> set[str]:
    """Whatever leads to an affinity inside its routing."""
    found: set[str] = set()
    tensors = graph.tensors()
    for name in [name for name in tensors if name.endswith(f".{AFFINITY}")]:
        waiting = list(tensors[name].inputs)
        place = place_of(waiting[0])
        while waiting:
            node = waiting.pop()
            if node.name not in found and place_of(node) == place:
                found.add(node.name)
                waiting += [maker for tensor in node.inputs for maker in tensor.inputs]
    return found
