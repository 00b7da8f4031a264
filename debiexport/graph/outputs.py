"""Pass: make only the network's own outputs graph outputs; the rest stay as named tensors inside."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir


def keep_outputs(model: ir.Model, names: Collection[str]) -> None:
    """Drop every graph output that is not in `names`, in place; its tensor and its name remain."""
    outputs = model.graph.outputs
    for value in [v for v in outputs if v.name not in names]:
        outputs.remove(value)
