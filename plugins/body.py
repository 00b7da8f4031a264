"""The nodes of an ONNX function, written down one after the other."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper

DOMAIN = "debiexport"
OPSETS = range(18, 21)  # of the operations that the definitions use: they mean the same in all of them


class Body:
    """The nodes of a function, in order; those of the same result are made once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()

    def op(self, result: str, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one result, and give the result's name."""
        if result not in self._made:
            self._made.add(result)
            self.nodes.append(helper.make_node(op_type, inputs, [result], result, **attributes))
        return result

    def ints(self, *numbers: int) -> str:
        """A vector of int64."""
        return self.op("_".join(("ints", *map(str, numbers))), "Constant", value_ints=list(numbers))

    def floats(self, *numbers: float) -> str:
        """A vector of float32."""
        return self.op("_".join(("floats", *map(str, numbers))), "Constant", value_floats=[float(n) for n in numbers])

    def size(self, x: str, axis: int) -> str:
        """The length of an axis: a vector of one number, int64."""
        return self.op(f"{x}_size{axis}", "Shape", x, start=axis, end=axis + 1)

    def real(self, x: str) -> str:
        """In float32."""
        return self.op(f"{x}_real", "Cast", x, to=TensorProto.FLOAT)

    def range(self, length: str) -> str:
        """0, 1, … length-1 in float32; the length is a vector of one number."""
        end = self.op(f"{length}_number", "Squeeze", length)
        zero, one = (self.op(f"{name}_number", "Squeeze", self.ints(n)) for n, name in enumerate(("zero", "one")))
        return self.real(self.op(f"{length}_range", "Range", zero, end, one))

    def attribute(self, name: str) -> str:
        """A number that the calling node gives."""
        if name not in self._made:
            self._made.add(name)
            node = helper.make_node("Constant", [], [name], name=name)
            node.attribute.append(
                onnx.AttributeProto(name="value_int", ref_attr_name=name, type=onnx.AttributeProto.INT)
            )
            self.nodes.append(node)
        return name
