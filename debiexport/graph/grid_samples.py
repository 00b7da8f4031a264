"""Pass: GridSample in the form that every parser reads as bilinear.

From opset 20 on the exporter writes mode="linear", which TensorRT's parsers up to 11.1 silently read as
nearest. Linear is the default there, so the attribute can go.
"""

from __future__ import annotations

import onnx_ir as ir


def drop_default_mode(model: ir.Model) -> None:
    """Remove mode="linear" from every GridSample, in place; "bilinear", of opsets before 20, stays."""
    for node in model.graph:
        mode = node.attributes.get("mode")
        if node.op_type == "GridSample" and mode is not None and mode.as_string() == "linear":
            del node.attributes["mode"]
