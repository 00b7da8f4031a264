"""Pass: remove the exporter's traces and write down what the model is.

The exporter leaves stack traces with the paths of the machine it ran on in every node: they tell nothing
to a user of the model, differ from machine to machine, and are larger than the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from debiexport._version import __version__


def write_metadata(model: ir.Model, name: str, properties: Mapping[str, str]) -> None:
    """Replace all metadata in place.

    Args:
        name: of the graph.
        properties: model properties; their keys get the prefix `debiexport.`.
    """
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update({f"debiexport.{key}": value for key, value in properties.items()})
    model.producer_name, model.producer_version = "debiexport", __version__
    model.graph.name, model.graph.doc_string, model.doc_string = name, None, None
