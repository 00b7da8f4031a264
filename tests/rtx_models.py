"""Tiny ONNX models for TensorRT for RTX: an attention, and graphs that it refuses."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

F32, F16, I64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
# Not importorskip: the library belongs in processes of its own.
needs_rtx = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)

Shape = Sequence[int | str | None]
Values = Mapping[str, tuple[int, Shape]]


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; names are separated by blanks, and its own is that of the operation in lower case unless it is given."""
    name = attributes.pop("name", op_type.lower())
    return helper.make_node(op_type, inputs.split(), outputs.split(), name=name, **attributes)


def model(
    nodes: Sequence[NodeProto],
    inputs: Values,
    outputs: Values,
    constants: Mapping[str, Any] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    """A model; inputs and outputs are (element type, shape) by name."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    domains = {each.domain for each in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def attention(dtype: int = F16, rank: int = 4, heads: int = 2, tokens: int = 16, width: int = 32) -> onnx.ModelProto:
    """Softmax in float32 between products in `dtype`; (1, M, T, d), or (M, T, d) of rank 3."""
    shape = (1, heads, tokens, width)[4 - rank :]
    nodes = [
        node("MatMul", "q k", "s", name="scores"),
        node("Cast", "s", "s32", to=F32, name="widen"),
        node("Softmax", "s32", "p32", axis=-1),
        node("Cast", "p32", "p", to=dtype, name="narrow"),
        node("MatMul", "p v", "o", name="values"),
    ]
    inputs = {"q": (dtype, shape), "k": (dtype, (*shape[:-2], width, tokens)), "v": (dtype, shape)}
    return model(nodes, inputs, {"o": (dtype, shape)})


def relu(shape: Shape, dtype: int = F32) -> onnx.ModelProto:
    """A model with an input `images` of that shape."""
    return model([node("Relu", "images", "y")], {"images": (dtype, shape)}, {"y": (dtype, shape)})


def grid_sample(dtype: int = F32, grid: int = F32, **attributes: Any) -> onnx.ModelProto:
    """(1, 3, 8, 8) sampled at (1, 4, 4, 2)."""
    return model(
        [node("GridSample", "x g", "y", name="bias", **attributes)],
        {"x": (dtype, (1, 3, 8, 8)), "g": (grid, (1, 4, 4, 2))},
        {"y": (dtype, (1, 3, 4, 4))},
    )


def top_k(k: int, of: int = 5000) -> onnx.ModelProto:
    """The k largest of each row."""
    shape = (2, k)
    return model(
        [node("TopK", "x k", "v i")], {"x": (F32, (2, of))}, {"v": (F32, shape), "i": (I64, shape)}, {"k": [k]}
    )


def computed_top_k() -> onnx.ModelProto:
    """K is the largest number of the input."""
    nodes = [
        node("ReduceMax", "x", "m", keepdims=0),
        node("Cast", "m", "n", to=I64),
        node("Reshape", "n one", "k"),
        node("TopK", "x k", "v i"),
    ]
    return model(nodes, {"x": (F32, (2, 8))}, {"v": (F32, (2, None)), "i": (I64, (2, None))}, {"one": [1]})


def mixed(op_type: str, **attributes: Any) -> onnx.ModelProto:
    """An operation of a float16 and a float32 matrix (8, 8)."""
    operands = {"x": (F16, (8, 8)), "w": (F32, (8, 8))}
    if op_type == "Where":
        operands = {"c": (TensorProto.BOOL, (8, 8)), **operands}
    shape = (16, 8) if op_type == "Concat" else (8, 8)
    return model([node(op_type, " ".join(operands), "y", **attributes)], operands, {"y": (F16, shape)})


def normalization(op_type: str, scale: type, bias: type) -> onnx.ModelProto:
    """A norm of a float16 map (1, 3, 8, 8), with scale and bias of these types."""
    size = 8 if op_type == "LayerNormalization" else 3
    return model(
        [node(op_type, "x s b", "y", name="norm")],
        {"x": (F16, (1, 3, 8, 8))},
        {"y": (F16, (1, 3, 8, 8))},
        {"s": np.ones(size, scale), "b": np.ones(size, bias)},
    )


def reshape(shape: Sequence[int]) -> onnx.ModelProto:
    """(2, 8) reshaped."""
    return model([node("Reshape", "x s", "y")], {"x": (F32, (2, 8))}, {"y": (F32, shape)}, {"s": list(shape)})


def product(dtype: int = F32) -> onnx.ModelProto:
    """(2, 8) by (8, 4)."""
    return model([node("MatMul", "x w", "y")], {"x": (dtype, (2, 8)), "w": (dtype, (8, 4))}, {"y": (dtype, (2, 4))})


def unary(op_type: str, dtype: int = F32, domain: str = "") -> onnx.ModelProto:
    """An operation of (2, 8) that keeps the type."""
    return model([node(op_type, "x", "y", domain=domain)], {"x": (dtype, (2, 8))}, {"y": (dtype, (2, 8))})


def cast(to: int) -> onnx.ModelProto:
    """(2, 8) in another type."""
    return model([node("Cast", "x", "y", to=to)], {"x": (F32, (2, 8))}, {"y": (to, (2, 8))})


def one_batch_only() -> onnx.ModelProto:
    """Any batch is declared, but 3 rows are added."""
    return model(
        [node("Add", "images w", "y")],
        {"images": (F32, ("N", 8))},
        {"y": (F32, ("N", 8))},
        {"w": np.ones((3, 8), np.float32)},
    )
