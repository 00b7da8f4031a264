"""Typed graphs: which tensors are float16, that names and metadata stay, and what a compiler would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import DebiexportError, UsageError
from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.geometry import Geometry
from debiexport.graph.typed import typed
from debiexport.graph.typed.rules import broken_rules, check_rules
from debiexport.loading import build_reference
from debiexport.lowerings import LOWERINGS
from debiexport.names import stream_names
from debiexport.static.network import StaticNetwork
from debiexport.targets.onnx import to_onnx

FP16, FP32 = TensorProto.FLOAT16, TensorProto.FLOAT


@pytest.fixture(scope="module")
def plain(tiny_card: Card) -> onnx.ModelProto:
    """The tiny DeBiFormer in the lowering that TensorRT gets, float32, two images."""
    reference = build_reference(random_checkpoint(tiny_card), (64, 96))
    network = StaticNetwork.of(reference, (64, 96), LOWERINGS["gather"])
    return to_onnx(network, batch=2, properties={"checkpoint": "none"})


@pytest.fixture(scope="module")
def half(plain: onnx.ModelProto) -> onnx.ModelProto:
    return typed(plain, "fp16")


@pytest.fixture
def types(half: onnx.ModelProto) -> dict[str, int]:
    values = (*half.graph.value_info, *half.graph.input, *half.graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        t.name: t.data_type for t in half.graph.initializer
    }


def _nodes(model: onnx.ModelProto, *kinds: str, place: str = "") -> Iterator[onnx.NodeProto]:
    yield from (node for node in model.graph.node if node.op_type in kinds and place in node.name)


def test_float32_changes_nothing(plain: onnx.ModelProto) -> None:
    single = typed(plain, "fp32")
    assert [n.name for n in single.graph.node] == [n.name for n in plain.graph.node]
    assert {t.name: t.raw_data for t in single.graph.initializer} == {
        t.name: t.raw_data for t in plain.graph.initializer
    }


def test_products_are_float16(half: onnx.ModelProto, types: dict[str, int]) -> None:
    stems = {"stem.conv1/Conv": FP16}
    for node in _nodes(half, "Conv", "Gemm"):
        expected = FP32 if ".offset.pointwise/" in node.name else FP16
        assert {types[name] for name in (*node.input, *node.output)} == {expected}, node.name
        stems.pop(node.name, None)
    assert not stems
    attention = [*_nodes(half, "MatMul", place=".broadcast/"), *_nodes(half, "MatMul", place=".sampling/")]
    assert attention
    assert {types[node.output[0]] for node in attention} == {FP16}


def test_routing_is_chosen_in_float32(half: onnx.ModelProto, types: dict[str, int], tiny_card: Card) -> None:
    choosing = [g.site for g in Geometry.of(tiny_card, (64, 96)).routed if not g.routes_everywhere]
    assert choosing
    for site in choosing:
        assert types[site.affinity] == FP32
        assert types[site.routes] == TensorProto.INT64
    pools = list(_nodes(half, "AveragePool"))
    assert pools
    assert {types[name] for node in pools for name in (*node.input, *node.output)} == {FP32}


def test_positions_weights_and_bias_are_float32(half: onnx.ModelProto, types: dict[str, int]) -> None:
    places = (".positions/", ".sampling.weights", ".bias/", ".bias.rows", ".offset.norm/", ".offset/")
    for place in places:
        made = [n for n in half.graph.node if place in n.name and n.op_type != "Cast"]
        assert made, place
        floats = {types[name] for node in made for name in node.output} - {TensorProto.INT64}
        assert floats == {FP32}, place


def test_softmax_is_float32_between_float16_products(half: onnx.ModelProto, types: dict[str, int]) -> None:
    softmaxes = list(_nodes(half, "Softmax"))
    assert len(softmaxes) == 16, "one for BRA, two for DBRA"
    assert {types[name] for node in softmaxes for name in (*node.input, *node.output)} == {FP32}


def test_norms_keep_their_statistics_in_float32(half: onnx.ModelProto, types: dict[str, int]) -> None:
    for node in _nodes(half, "LayerNormalization"):
        assert {a.name: a.i for a in node.attribute}["stash_type"] == FP32
        assert len({types[name] for name in node.input}) == 1
        assert types[node.output[0]] == (FP32 if ".offset.norm/" in node.name else FP16)


def test_names_and_metadata_stay(plain: onnx.ModelProto, half: onnx.ModelProto, tiny_card: Card) -> None:
    assert {p.key: p.value for p in half.metadata_props} == {"debiexport.checkpoint": "none"}
    assert (half.producer_name, half.producer_version) == (plain.producer_name, plain.producer_version)
    assert half.ir_version == plain.ir_version
    assert list(half.opset_import) == list(plain.opset_import)
    assert half.graph.name == plain.graph.name
    made = {name for node in half.graph.node for name in node.output}
    assert set(stream_names(tiny_card)) <= made
    before = [n.name for n in plain.graph.node]
    assert [n.name for n in half.graph.node if n.op_type != "Cast"] == before
    assert [(v.name, v.type) for v in half.graph.input] == [(v.name, v.type) for v in plain.graph.input]
    assert [(v.name, v.type) for v in half.graph.output] == [(v.name, v.type) for v in plain.graph.output]


def test_casts_are_few_and_one_a_tensor(plain: onnx.ModelProto, half: onnx.ModelProto) -> None:
    casts = list(_nodes(half, "Cast"))
    assert len(half.graph.node) == len(plain.graph.node) + len(casts)
    assert len(casts) <= 0.1 * len(plain.graph.node)
    assert max(Counter(node.input[0] for node in casts).values()) == 1


def test_metadata_of_nodes_stays(plain: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    model.graph.node[3].metadata_props.add(key="place", value="here")
    found = {n.name: [(p.key, p.value) for p in n.metadata_props] for n in typed(model, "fp16").graph.node}
    assert found[model.graph.node[3].name] == [("place", "here")]
    assert sum(map(len, found.values())) == 1


def test_the_same_bytes_twice(plain: onnx.ModelProto, half: onnx.ModelProto) -> None:
    assert typed(plain, "fp16").SerializeToString(deterministic=True) == half.SerializeToString(deterministic=True)


def test_the_judge_runs_it(plain: onnx.ModelProto, half: onnx.ModelProto) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    wide, narrow = (OnnxEvaluator(model).run({"images": images})["logits"] for model in (plain, half))
    assert 0 < np.abs(wide - narrow).max() < 0.02 * np.abs(wide).max()


def test_every_batch(tiny_bi_card: Card) -> None:
    """A dynamic batch stays one."""
    reference = build_reference(random_checkpoint(tiny_bi_card), (64, 64))
    model = to_onnx(StaticNetwork.of(reference, (64, 64), LOWERINGS["gather"]), batch=None)
    evaluator = OnnxEvaluator(typed(model, "fp16"))
    images = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    together = evaluator.run({"images": images})["logits"]
    alone = np.concatenate([evaluator.run({"images": image[None]})["logits"] for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-2 * np.abs(alone).max())


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None, shape: tuple[int, ...] = (2, 4)
) -> onnx.ModelProto:
    """x, float32 -> y."""
    inputs = [helper.make_tensor_value_info("x", FP32, shape)]
    outputs = [helper.make_tensor_value_info("y", FP32, None)]
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model)


def test_constants_are_folded() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "head/Transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"], "head/MatMul"),
    ]
    result = typed(_model(nodes, {"w": np.ones((3, 4), np.float32)}), "fp16")
    assert [n.op_type for n in result.graph.node] == ["Cast", "MatMul", "Cast"]


def test_a_constant_of_both_kinds_of_nodes_is_kept_in_both_types() -> None:
    nodes = [
        helper.make_node("Add", ["x", "w"], ["a"], "stage1.block1.attn1.positions/Add"),
        helper.make_node("Mul", ["a", "w"], ["y"], "head/Mul"),
    ]
    result = typed(_model(nodes, {"w": np.full(4, 0.1, np.float32)}), "fp16")
    assert {t.name: t.data_type for t in result.graph.initializer} == {"w": FP32, "w.fp16": FP16}


def test_an_output_that_is_read_inside() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "head/Relu"),
        helper.make_node("Neg", ["y"], ["z"], "head/Neg"),
    ]
    model = _model(nodes)
    model.graph.output.append(helper.make_tensor_value_info("z", FP32, None))
    result = typed(model, "fp16")
    onnx.checker.check_model(result, full_check=True)
    assert [v.name for v in result.graph.output] == ["y", "z"]
    assert [v.type.tensor_type.elem_type for v in result.graph.output] == [FP32, FP32]


def test_a_weight_beyond_float16_is_refused() -> None:
    model = _model([helper.make_node("Mul", ["x", "w"], ["y"], "head/Mul")], {"w": np.full(4, 1e5, np.float32)})
    with pytest.raises(UsageError, match=r"^w, folded .*, holds 100000, and .* 65504: export with --precision fp32"):
        typed(model, "fp16")
    typed(model, "fp32")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="--precision is 'int8': give fp32 or fp16"):
        typed(_model([helper.make_node("Relu", ["x"], ["y"], "head/Relu")]), "int8")


def test_a_node_of_two_types() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "a/Cast", to=FP16),
        helper.make_node("Add", ["x", "h"], ["y"], "a/Add"),
    ]
    assert list(broken_rules(_inferred(_model(nodes)))) == ["a/Add reads float16 and float32"]


def test_k_of_the_graph_and_a_large_one() -> None:
    nodes = [helper.make_node("TopK", ["x", "k"], ["v", "y"], "a/TopK")]
    large = _inferred(_model(nodes, {"k": np.array([4000])}, (2, 5000)))
    assert list(broken_rules(large))[-1:] == ["a/TopK has k 4000, the largest is 3840"]
    computed = [
        helper.make_node("Shape", ["x"], ["k"], "a/Shape", start=0, end=1),
        helper.make_node("TopK", ["x", "k"], ["v", "y"], "a/TopK"),
    ]
    found = list(broken_rules(_inferred(_model(computed))))
    assert "a/TopK takes its k from the graph" in found


def test_a_rank_of_nine() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], "a/Reshape")]
    model = _inferred(_model(nodes, {"s": np.array([1] * 7 + [2, 4])}))
    assert list(broken_rules(model)) == ["a/Reshape gives 'y' of rank 9, the largest is 8"]


def test_linear_sampling_and_types_of_sampling() -> None:
    grid = np.zeros((1, 2, 2, 2), np.float16)
    nodes = [helper.make_node("GridSample", ["x", "grid"], ["y"], "a/GridSample", mode="linear")]
    model = _inferred(_model(nodes, {"grid": grid}, (1, 1, 4, 4)))
    assert list(broken_rules(model)) == [
        "a/GridSample reads float16 and float32",
        "a/GridSample has mode=linear, which older parsers read as nearest",
    ]


def test_sampling_stays_float32_with_its_grid() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["map"], "stage1/Relu"),
        helper.make_node("GridSample", ["map", "grid"], ["s"], "a.sampling/GridSample"),
        helper.make_node("Relu", ["s"], ["y"], "stage1/Relu_2"),
    ]
    result = typed(_model(nodes, {"grid": np.zeros((1, 2, 2, 2), np.float32)}, (1, 1, 4, 4)), "fp16")
    kinds = [n.op_type for n in result.graph.node]
    assert kinds == ["Cast", "Relu", "Cast", "GridSample", "Cast", "Relu", "Cast"]


def test_what_is_constant_or_unknown() -> None:
    constant = [
        helper.make_node("Neg", ["w"], ["n"], "a/Neg"),
        helper.make_node("Add", ["x", "n"], ["y"], "a/Add"),
    ]
    model = _model(constant, {"w": np.ones(4, np.float32)})
    assert list(broken_rules(_inferred(model))) == ["a/Neg reads constants only"]
    assert next(iter(broken_rules(model))) == "a/Neg gives 'n', whose type is unknown"


def test_an_error_names_some_and_counts_the_rest() -> None:
    nodes = [helper.make_node("Neg", ["w"], [f"n{i}"], f"a/Neg_{i}") for i in range(5)]
    model = _inferred(_model([*nodes, helper.make_node("Relu", ["x"], ["y"], "a/Relu")], {"w": np.ones(1)}))
    with pytest.raises(DebiexportError, match=r"breaks rules of TensorRT: a/Neg_0 reads.* and 2 more"):
        check_rules(model)
