"""Typed graphs: the precision of every tensor written into the model, as strongly typed compilers want it.

The passes work on an `onnx_graphsurgeon.Graph`, one a file. `typed` applies them in order.
"""

from debiexport.graph.typed.model import PRECISIONS, typed

__all__ = ["PRECISIONS", "typed"]
