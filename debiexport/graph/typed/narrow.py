"""Pass: constants that float16 nodes read become float16."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from debiexport.errors import UsageError
from debiexport.graph.typed.operands import wanted_type

_LARGEST = float(np.finfo(np.float16).max)


def narrow_constants(graph: gs.Graph, single: Collection[str]) -> None:
    """Round them, in place; a constant that float32 nodes read as well is kept beside its copy `NAME.fp16`.

    Args:
        single: names of the nodes that stay in float32.

    Raises:
        UsageError: a number is too large for float16.
    """
    narrow: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        for place, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant) or tensor.dtype != np.float32:
                continue
            if wanted_type(node, place, single) == np.float16:
                if tensor.name not in narrow:
                    narrow[tensor.name] = _narrowed(tensor, single)
                node.inputs[place] = narrow[tensor.name]


def _narrowed(constant: gs.Constant, single: Collection[str]) -> gs.Constant:
    largest = float(np.abs(constant.values).max(initial=0))
    if not largest <= _LARGEST:
        raise UsageError(
            f"{constant.name}, folded from the checkpoint's weights, holds {largest:g}, and float16 ends at"
            f" {_LARGEST:g}: export with --precision fp32"
        )
    wide = any(
        wanted_type(node, place, single) == np.float32
        for node in constant.outputs
        for place, tensor in enumerate(node.inputs)
        if tensor is constant
    )
    return gs.Constant(f"{constant.name}.fp16" if wide else constant.name, constant.values.astype(np.float16))
