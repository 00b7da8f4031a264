"""Which type a node of a half-precision graph wants an operand in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

FLOAT32_OPERANDS = {"AgentAttention": (3, 4)}
"""Inputs that are float32 in whatever precision, by the kind of a fused node: positions and the bias table."""


def wanted_type(node: gs.Node, place: int, single: Collection[str]) -> type[np.floating[Any]]:
    """Of the floating-point input at a place; inputs of other types are none of its business.

    Args:
        place: index of the input.
        single: names of the nodes that stay in float32.
    """
    if node.name in single or place in FLOAT32_OPERANDS.get(node.op, ()):
        return np.float32
    return np.float16
