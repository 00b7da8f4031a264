from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from debiexport.errors import BundleError
from debiexport.runtimes.base import float32
from debiexport.runtimes.ort import OrtGraph, OrtRuntime, refuse_external_data


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x @ w), with the product named `stage1.inside`."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1, 0, 0, -1])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["stage1.inside"]),
        helper.make_node("Relu", ["stage1.inside"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
        value_info=[helper.make_tensor_value_info("stage1.inside", TensorProto.FLOAT, ["batch", 2])],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


X = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)


def test_outputs_by_name(model: Path) -> None:
    runtime = OrtRuntime(model, threads=1)
    assert runtime.batch is None
    assert runtime.outputs == ["y"]
    np.testing.assert_array_equal(runtime.run({"x": X})["y"], [[1, 0], [3, 4]])


def test_taps_show_what_is_inside(model: Path) -> None:
    before = model.read_bytes()
    runtime = OrtRuntime(model)
    results = runtime.run({"x": X}, ["stage1.inside"])
    np.testing.assert_array_equal(results["stage1.inside"], [[1, -2], [3, 4]])
    np.testing.assert_array_equal(results["y"], [[1, 0], [3, 4]])
    assert model.read_bytes() == before


def test_taps_need_no_declared_type(model: Path) -> None:
    proto = onnx.load(model)
    del proto.graph.value_info[:]
    onnx.save(proto, model)
    results = OrtRuntime(model).run({"x": X}, ["stage1.inside"])
    np.testing.assert_array_equal(results["stage1.inside"], [[1, -2], [3, 4]])


def test_a_graph_in_memory(model: Path) -> None:
    graph = OrtGraph(onnx.load(model), "it", threads=1)
    assert list(graph.run({"x": X, "more": X})) == ["y"]
    with pytest.raises(BundleError, match="it cannot be run"):
        graph.run({"x": X[:, :1]})
    with pytest.raises(BundleError, match="nothing cannot be loaded"):
        OrtGraph(onnx.ModelProto(), "nothing")


def test_a_tensor_that_is_not_there(model: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx has no tensor 'stage9'"):
        OrtRuntime(model).run({"x": X}, ["stage9"])


def test_a_fixed_batch(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, model)
    assert OrtRuntime(model).batch == 2


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a\x12\x04"])
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        OrtRuntime(path)
    assert "\n" not in str(caught.value)


def test_data_outside_the_file_is_refused(model: Path) -> None:
    refuse_external_data(model)
    proto = onnx.load(model)
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    model.write_bytes(proto.SerializeToString())
    with pytest.raises(BundleError, match="keeps 'w' in another file"):
        refuse_external_data(model)


def test_float32_copies_only_if_it_must() -> None:
    assert float32(X) is X
    assert float32(X.astype(np.float64)).dtype == np.float32


def test_data_outside_the_file_is_found_in_attributes_too(model: Path) -> None:
    proto = onnx.load(model)
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    model.write_bytes(proto.SerializeToString())
    with pytest.raises(BundleError, match="keeps 't' in another file"):
        refuse_external_data(model)


def test_inputs_that_do_not_fit(model: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx cannot be run"):
        OrtRuntime(model).run({"x": np.zeros((1, 3), np.float32)})
