"""Pass: what depends on no input is computed now, so that a compiler finds numbers where it wants numbers."""

from __future__ import annotations

import onnx_graphsurgeon as gs


def fold_constants(graph: gs.Graph) -> None:
    """Replace nodes that read nothing but constants by their results, in place.

    A node that cannot be computed is an error: left in place it would be refused by `rules` with fewer words.
    """
    graph.fold_constants(error_ok=False).cleanup(remove_unused_graph_inputs=False)
