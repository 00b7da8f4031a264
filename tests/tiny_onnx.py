"""A typed ONNX model of a few nodes, for tests of what builds and runs engines."""

from __future__ import annotations

import numpy as np
import onnx


def tiny_model(batch: int | str = "N", dtype: int = onnx.TensorProto.FLOAT, opset: int = 20) -> onnx.ModelProto:
    """Images (N, 3, 8, 8) float32 -> logits (N, 5) float32 by a convolution and a product, both computed in `dtype`."""
    random = np.random.default_rng(7)
    weights = random.normal(size=(4, 3, 3, 3)) * 0.2, random.normal(size=(4, 5)) * 0.5
    numpy_type = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    kernel, head = (onnx.numpy_helper.from_array(w.astype(numpy_type), n) for w, n in zip(weights, "wh", strict=True))
    make = onnx.helper.make_node
    nodes = [
        make("Cast", ["images"], ["x"], "in/Cast", to=dtype),
        make("Conv", ["x", "w"], ["c"], "stem/Conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        make("Relu", ["c"], ["r"], "stem/Relu"),
        make("GlobalAveragePool", ["r"], ["g"], "pool/GlobalAveragePool"),
        make("Flatten", ["g"], ["f"], "pool/Flatten"),
        make("MatMul", ["f", "h"], ["m"], "head/MatMul"),
        make("Cast", ["m"], ["logits"], "out/Cast", to=onnx.TensorProto.FLOAT),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [value("images", onnx.TensorProto.FLOAT, [batch, 3, 8, 8])],
        [value("logits", onnx.TensorProto.FLOAT, [batch, 5])],
        [kernel, head],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)


def images(batch: int, seed: int = 0) -> np.ndarray:
    """(batch, 3, 8, 8) float32."""
    return np.random.default_rng(seed).normal(size=(batch, 3, 8, 8)).astype(np.float32)
