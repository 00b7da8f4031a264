"""What differs between two ONNX graphs that should be one, node by node.

Nodes are paired by the name of what they compute. Of a pair everything is compared that says what it computes: the
operation, the attributes (an absent one has its default value), the tensors it reads, and of constants among
those the values. Names of nodes and of constants, metadata and declared shapes mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

from debiexport.runtimes.base import Array

_SHOWN = 3


@dataclass(frozen=True)
class GraphDifference:
    """How a graph differs from the expected one.

    Attributes:
        changed: what differs in a node, by the name of each of its outputs; nodes without a difference are absent.
        added: first outputs of nodes that are only in the graph, in its order.
        missing: first outputs of nodes that are only in the expected graph, in its order.
    """

    changed: dict[str, tuple[str, ...]]
    added: tuple[str, ...]
    missing: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.missing)

    @property
    def structure(self) -> str | None:
        """One line on nodes that have no partner, None if there are none."""
        sides = (("only in it", self.added), ("only expected", self.missing))
        said = [f"{_count(names)} {where} ({_some(names)})" for where, names in sides if names]
        return " and ".join(said) or None


def compare_graphs(actual: onnx.ModelProto, expected: onnx.ModelProto) -> GraphDifference:
    """Compare a model's graph with the expected one; see the module."""
    ours, theirs = _Side(actual), _Side(expected)
    changed: dict[str, tuple[str, ...]] = {}
    for node in actual.graph.node:
        partner = next((theirs.makers[name] for name in node.output if name in theirs.makers), None)
        if partner is None:
            continue
        found = tuple(_node(node, ours, partner, theirs))
        if found:
            changed |= dict.fromkeys(node.output, found)
    return GraphDifference(changed, _unpaired(actual, theirs), _unpaired(expected, ours))


class _Side:
    """One of the two models: who makes a tensor, and which tensors are constant."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = next((o.version for o in model.opset_import if o.domain == ""), 1)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers: dict[str, onnx.NodeProto] = {}
        for node in model.graph.node:
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if node.op_type == "Constant" and value is not None:  # another way to write an initializer
                self.constants[node.output[0]] = value
            else:
                self.makers |= {name: node for name in node.output if name}


def _unpaired(model: onnx.ModelProto, other: _Side) -> tuple[str, ...]:
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    return tuple(node.output[0] for node in nodes if not any(name in other.makers for name in node.output))


def _node(node: onnx.NodeProto, ours: _Side, partner: onnx.NodeProto, theirs: _Side) -> Iterator[str]:
    if (node.domain, node.op_type) != (partner.domain, partner.op_type):
        yield f"the operation is {node.op_type}, expected {partner.op_type}"
        return
    a, b = _attributes(node, ours.opset), _attributes(partner, theirs.opset)
    for name in sorted(a.keys() | b.keys()):
        values = [_value(side[name]) if name in side else None for side in (a, b)]
        if _differ(values[0], values[1]):
            yield f"attribute {name} is {_text(values[0])}, expected {_text(values[1])}"
    if len(node.input) != len(partner.input):
        yield f"it reads {len(node.input)} tensors, expected {len(partner.input)}"
        return
    for i, (mine, other) in enumerate(zip(node.input, partner.input, strict=True)):
        constant, wanted = ours.constants.get(mine), theirs.constants.get(other)
        if constant is not None and wanted is not None:
            text = describe_difference(numpy_helper.to_array(constant), numpy_helper.to_array(wanted))
            if text is not None:
                yield f"{mine} {text}"
        elif mine != other:
            yield f"input {i} is {mine or 'absent'}, expected {other or 'absent'}"


def describe_difference(actual: Array, expected: Array) -> str | None:
    """How a constant differs from the expected one, as the rest of a sentence, or None if it does not."""
    if actual.dtype != expected.dtype:
        return f"is {actual.dtype}, expected {expected.dtype}"
    if actual.shape != expected.shape:
        return f"has the shape {list(actual.shape)}, expected {list(expected.shape)}"
    differs = (actual != expected) & ~((actual != actual) & (expected != expected))  # two NaN are equal
    count = int(np.count_nonzero(differs))
    if count == 0:
        return None
    if actual.size == 1:
        return f"is {_text(actual.item())}, expected {_text(expected.item())}"
    worst = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64))[differs].max())
    return f"differs in {count} of {actual.size} values, by at most {_text(worst)}"


def _attributes(node: onnx.NodeProto, opset: int) -> dict[str, AttributeProto]:
    """The attributes of a node by name, those left out with their defaults."""
    out: dict[str, AttributeProto] = {}
    if onnx.defs.has(node.op_type, node.domain) and node.domain == "":
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        defaults = {name: attribute.default_value for name, attribute in schema.attributes.items()}
        out = {name: value for name, value in defaults.items() if value.type != AttributeProto.UNDEFINED}
    return out | {attribute.name: attribute for attribute in node.attribute}


def _value(attribute: AttributeProto) -> Any:
    """A number, text, list or array; of anything else its bytes."""
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t)
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return attribute.SerializeToString(deterministic=True)
    value = onnx.helper.get_attribute_value(attribute)
    return value if isinstance(value, (int, float, bytes)) else list(value)


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return describe_difference(a, b) is not None
    return type(a) is not type(b) or bool(a != b)


def _text(value: Any) -> str:
    """A value for a message: six significant digits are what float32 holds."""
    if value is None:
        return "absent"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")[:40]
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list) else str(value)


def _count(names: tuple[str, ...]) -> str:
    return "1 operation is" if len(names) == 1 else f"{len(names)} operations are"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
