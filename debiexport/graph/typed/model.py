"""A float32 model -> the same model in its precision, checked against what TensorRT takes."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from debiexport.errors import UsageError
from debiexport.graph.typed.attached import Attached
from debiexport.graph.typed.casts import place_casts
from debiexport.graph.typed.constants import fold_constants
from debiexport.graph.typed.islands import float32_nodes
from debiexport.graph.typed.narrow import narrow_constants
from debiexport.graph.typed.rules import check_rules

PRECISIONS = ("fp32", "fp16")


def check_precision(precision: str) -> str:
    """Refuse a precision that no typed graph has.

    Raises:
        UsageError: it is unknown.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision is {precision!r}: give {' or '.join(PRECISIONS)}")
    return precision


def typed(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The model in its precision; its inputs and outputs stay float32.

    In fp16, matrix products and convolutions and the residual stream between them are float16; the nodes that
    `islands` names stay float32.

    Args:
        model: float32, nodes named after their places, see `graph.scopes`; it is not changed.
        precision: "fp32" or "fp16".

    Raises:
        UsageError: the precision is unknown, or a weight is too large for float16.
        DebiexportError: the result breaks a rule of `rules`.
    """
    check_precision(precision)
    attached = Attached.of(model)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    del inferred.functions[:]  # they take any type and stay as they are, see `Attached`
    graph = gs.import_onnx(inferred)
    fold_constants(graph)
    if precision == "fp16":
        single = float32_nodes(graph)
        narrow_constants(graph, single)
        place_casts(graph, single)
    graph.cleanup(remove_unused_graph_inputs=False)
    result = attached.restored(gs.export_onnx(graph, do_type_check=False))
    check_rules(result)
    return result
