from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from debiexport.errors import BundleError
from debiexport.evaluate.onnx import functions, graph, types
from debiexport.evaluate.onnx.graph import read_graph
from debiexport.evaluate.onnx.types import TensorType

OneLine = Callable[[BaseException], str]
_HEADER = '<ir_version: 9, opset_import: ["": 20, "own": 1]>'
_NETWORK = "(float16[N,3] x) => (float16[N,2] y) <float16[3,2] w> { h = MatMul(x, w) y = Relu(h) }"


def _parse(body: str, header: str = _HEADER) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{header} g {body}")


def _network() -> onnx.ModelProto:
    """A product and an activation in float16, for any batch."""
    model = _parse(_NETWORK)
    del model.graph.initializer[:]
    del model.graph.value_info[:]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 2), np.float16), "w"))
    return model


def _refused(model: onnx.ModelProto | Path, one_line: OneLine) -> str:
    with pytest.raises(BundleError) as caught:
        read_graph(model).types()
    return one_line(caught.value)


def test_a_file_and_a_model_are_read_alike(tmp_path: Path) -> None:
    model = _network()
    written = model.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(written)
    for source in (model, tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        read = read_graph(source)
        assert read.opset == 20
        assert read.inputs == {"x": ("N", 3)}
        assert read.outputs == ("y",)
        assert read.symbol == "N"
        assert [(node.name, node.op_type, node.inputs, node.outputs) for node in read.nodes] == [
            ("h", "MatMul", ("x", "w"), ("h",)),
            ("y", "Relu", ("h",), ("y",)),
        ]
        assert read.constants["w"].tolist() == [[1, 1]] * 3
    assert model.SerializeToString() == written


def test_types_are_inferred_for_a_batch() -> None:
    read = read_graph(_network())
    assert read.types()["h"] == TensorType("fp16", (None, 2))
    assert read.types(5)["h"] == TensorType("fp16", (5, 2))
    assert str(read.types()["x"]) == "fp16[?, 3]"


def test_outputs_without_a_type_are_inferred() -> None:
    model = _network()
    model.graph.output[0].ClearField("type")
    assert read_graph(model).types(2)["y"] == TensorType("fp16", (2, 2))


def test_large_constants_do_not_matter_to_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_SMALL", 2)
    constants = "<int64[2] s = {2, 2}, float[4] c = {1, 2, 3, 4}>"
    body = f"(float[4] x) => (float[2,2] y) {constants} {{ h = Add(x, c) y = Reshape(h, s) }}"
    assert read_graph(_parse(body)).types()["y"] == TensorType("fp32", (2, 2))


def test_constants_of_every_kind() -> None:
    body = """(float[1] x) => (float[1] y) {
        a = Constant<value_float = 1.5>() b = Constant<value_ints = [2, 3]>() c = Constant<value_int = 4>()
        d = Constant<value_floats = [0.5]>() e = Constant<value = bool[1] {1}>() y = Identity(x) }"""
    read = read_graph(_parse(body))
    assert {name: value.tolist() for name, value in read.constants.items()} == {
        "a": 1.5,
        "b": [2, 3],
        "c": 4,
        "d": [0.5],
        "e": [True],
    }
    assert [node.op_type for node in read.nodes] == ["Identity"]


def test_an_input_with_a_value_is_a_constant() -> None:
    model = _network()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT16, [3, 2]))
    assert list(read_graph(model).inputs) == ["x"]


def _functions(*texts: str) -> onnx.ModelProto:
    model = _parse("(float[2] x) => (float[2] y) { y = own.outer(x) }")
    for text in texts:
        model.functions.append(onnx.parser.parse_function(text))
    return model


_FUNCTION = '<opset_import: ["": 20, "own": 1], domain: "own">'


def test_functions_are_put_in_place() -> None:
    model = _functions(
        f"{_FUNCTION} inner <alpha> (a) => (b) {{ b = LeakyRelu<alpha: float = @alpha>(a) }}",
        f"{_FUNCTION} outer (a) => (b) {{ c = own.inner<alpha = 0.5>(a) b = Neg(c) }}",
    )
    read = read_graph(model)
    assert [node.op_type for node in read.nodes] == ["LeakyRelu", "Neg"]
    assert read.nodes[0].attributes == {"alpha": 0.5}
    assert read.types()["y"] == TensorType("fp32", (2,))


def test_a_function_that_calls_itself(one_line: OneLine) -> None:
    model = _functions(
        f"{_FUNCTION} outer (a) => (b) {{ b = own.inner(a) }}", f"{_FUNCTION} inner (a) => (b) {{ b = own.outer(a) }}"
    )
    assert "calls itself" in _refused(model, one_line)


def _chain(length: int) -> list[str]:
    """Functions that each call the next one twice."""
    names = ["outer", *(f"f{i}" for i in range(1, length)), "end"]
    texts = [
        f"{_FUNCTION} {name} (a) => (b) {{ c = own.{after}(a) b = own.{after}(c) }}" for name, after in pairwise(names)
    ]
    return [*texts, f"{_FUNCTION} end (a) => (b) {{ b = Neg(a) }}"]


def test_functions_that_would_become_too_many_nodes(one_line: OneLine) -> None:
    assert f"allowed are {functions.MAX_NODES}" in _refused(_functions(*_chain(20)), one_line)


@pytest.mark.parametrize("order", [1, -1])
def test_functions_too_deep(order: int, one_line: OneLine) -> None:
    assert "deep" in _refused(_functions(*_chain(40)[::order]), one_line)


def test_a_function_that_is_missing(one_line: OneLine) -> None:
    assert "cannot be evaluated here: own::outer (1)" in _refused(_functions(), one_line)


def test_unknown_operations_are_listed(one_line: OneLine) -> None:
    body = """(float[2] x, bool c) => (float[2] y) {
        a = Hardmax(x) b = Hardmax(a) d = own.thing(b)
        y = If(c) <then_branch = g1 () => (float[2] e) { e = Neg(d) },
                   else_branch = g2 () => (float[2] f) { f = Abs(d) }> }"""
    assert "here: Hardmax (2), If (1), own::thing (1);" in _refused(_parse(body), one_line)


@pytest.mark.parametrize("opset", [17, 21])
def test_other_opsets(opset: int, one_line: OneLine) -> None:
    model = _parse("(float[2] x) => (float[2] y) { y = Relu(x) }", f'<ir_version: 9, opset_import: ["": {opset}]>')
    assert f"is of opset {opset}, known are 18 to 20" in _refused(model, one_line)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("(float16[2] x, float[2] z) => (float16[2] y) { y = Add(x, z) }", "inconsistent type tensor(float)"),
        ("(bool[2] x) => (bool[2] y) { y = Relu(x) }", "unsupported type: tensor(bool)"),
        ("(float[2] x) => (float[3] y) { y = Relu(x) }", "types of the model do not fit"),
        ("(float[2] x) => (float16[2] y) { y = Relu(x) }", "types of the model do not fit"),
        ("(float[2] x) => (float[2] y) { y = Softmax<axis = 3>(x) }", "types of the model do not fit"),
        ("(float[2] x) => (float[2] y) { y = Relu(z) }", "Input 0 expected to have type"),
        ("(float[2] x) => (float[2] y) { y = Relu(h) h = Neg(x) }", "Input 0 expected to have type"),
        ("(float[2] x) => (float[2] y) { y = Relu<slope = 3>(x) }", "not valid ONNX"),
        ("(float[2,N] x) => (float[2,N] y) { y = Relu(x) }", "'x' takes several shapes"),
        ("(float[N] x, float[M] z) => (float[N] y) { y = Relu(x) }", "'z' takes several shapes"),
        ("(string[2] x) => (string[2] y) { y = Identity(x) }", "'y' has elements of type STRING"),
        ("(uint64[2] x) => (uint64[2] y) { y = Identity(x) }", "'y' has elements of type UINT64"),
        ("(seq(float[2]) x) => (seq(float[2]) y) { y = Identity(x) }", "'y' is no tensor but sequence_type"),
        ("(float[65536,65536] x) => (float[65536,65536] y) { y = Relu(x) }", "allowed are 1073741824 elements"),
    ],
)
def test_what_does_not_fit(body: str, words: str, one_line: OneLine) -> None:
    assert words in _refused(_parse(body), one_line)


@pytest.mark.parametrize("content", [b"", b"no model at all", None])
def test_damaged_files(content: bytes | None, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_network().SerializeToString()[:-20] if content is None else content)
    _refused(path, one_line)


@pytest.mark.parametrize("damage", [b"\xff", b"\n"])
def test_names_that_are_no_text(damage: bytes, tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_network().SerializeToString().replace(b"Relu", b"Rel" + damage))
    assert "which is not text" in _refused(path, one_line)
    model = _network()
    model.doc_string = model.graph.node[0].doc_string = "two\nlines"
    read_graph(model)


def test_a_file_that_is_missing(tmp_path: Path, one_line: OneLine) -> None:
    assert "cannot be read" in _refused(tmp_path / "model.onnx", one_line)
    assert "cannot be read" in _refused(tmp_path, one_line)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_network().SerializeToString())
    monkeypatch.setattr(graph, "MAX_BYTES", 10)
    assert f"model.onnx has {path.stat().st_size} bytes, allowed are 10" in _refused(path, one_line)


def test_data_in_other_files(one_line: OneLine) -> None:
    for place in ("initializer", "attribute", "function"):
        model = _functions(f"{_FUNCTION} outer (a) => (b) {{ b = Neg(a) }}") if place == "function" else _network()
        tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/passwd")
        if place == "initializer":
            model.graph.initializer.append(tensor)
        else:
            nodes = model.functions[0].node if place == "function" else model.graph.node
            nodes.insert(0, helper.make_node("Constant", [], ["far"], value=tensor))
        assert "keeps 'far' in another file" in _refused(model, one_line)


def test_sparse_tensors(one_line: OneLine) -> None:
    model = _network()
    values = helper.make_tensor("thin", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("thin_indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))
    assert "'thin' is a sparse tensor" in _refused(model, one_line)


def test_a_constant_with_other_data_than_its_shape(one_line: OneLine) -> None:
    model = _network()
    model.graph.initializer[0].raw_data = b"\0" * 3
    _refused(model, one_line)
    model = _parse("(float[1] x) => (float[1] y) { h = Identity(c) y = Identity(x) }")
    model.graph.initializer.append(TensorProto(name="c", data_type=TensorProto.FLOAT8E5M2, dims=[1], raw_data=b"\0"))
    assert "'c' has elements of type FLOAT8E5M2" in _refused(model, one_line)


def test_a_constant_that_is_text(one_line: OneLine) -> None:
    body = '(float[1] x) => (float[1] y) { c = Constant<value_string = "a">() y = Identity(x) }'
    assert "of the kind 'value_string'" in _refused(_parse(body), one_line)


def test_negative_sizes(one_line: OneLine) -> None:
    model = _network()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -3
    assert "'x' has the shape [-3]" in _refused(model, one_line)
    model = _network()
    model.graph.initializer[0].dims[0] = -3
    assert "'w' has the shape [-3, 2]" in _refused(model, one_line)


@pytest.mark.parametrize("sizes", [[-1], [2**31, 0], [2**20, 2**20]])
def test_absurd_sizes(sizes: list[int], one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        types.check_size(sizes, "c")
    assert "'c' has the shape" in one_line(caught.value)
