"""The exported graph of the small network: names, opset, shapes, and what must not be in it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import onnx
import pytest

from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import DebiexportError, UsageError
from debiexport.geometry import Geometry
from debiexport.loading import build_reference
from debiexport.names import stream_names
from debiexport.static.network import StaticNetwork
from debiexport.targets import onnx as target


@pytest.fixture
def proto(dynamic_bundle: Path) -> onnx.ModelProto:
    return onnx.load(dynamic_bundle / "model.onnx")


def test_input_and_output(proto: onnx.ModelProto) -> None:
    (images,), (logits,) = proto.graph.input, proto.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (images, logits)]
    assert (images.name, logits.name) == ("images", "logits")
    assert shapes == [["batch", 3, 64, 64], ["batch", 6]]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_names_are_places(proto: onnx.ModelProto) -> None:
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    assert all(re.match(r"(stem|head|network|stage\d(\.block\d+)?)", name) for name in names)
    assert all(re.match(r"(stem|head|network|stage\d)", tensor.name) for tensor in proto.graph.initializer)
    assert "stage3.block2.attn2.bias/MatMul" in names


def test_places_of_interest_have_their_stable_names(proto: onnx.ModelProto, tiny_card: Card) -> None:
    made = {name for node in proto.graph.node for name in node.output}
    typed = {value.name for value in proto.graph.value_info}
    choosing = [g.site for g in Geometry.of(tiny_card, (64, 64)).routed if not g.routes_everywhere]
    wanted = {*stream_names(tiny_card), *(n for site in choosing for n in (site.affinity, site.routes))}
    assert wanted <= made
    assert wanted <= typed, "a runtime needs their types to show them"


def test_what_the_rewrite_avoids(proto: onnx.ModelProto) -> None:
    operations = Counter(node.op_type for node in proto.graph.node)
    assert not {"GatherElements", "GridSample", "Expand", "ScatterND", "BatchNormalization"} & set(operations)
    assert operations["TopK"] == 8, "one per attention that chooses, none where top-k covers all regions"
    ranks = [len(value.type.tensor_type.shape.dim) for value in proto.graph.value_info]
    assert max(ranks) <= 7, "regions and heads are split in one transpose of rank 7; TensorRT takes 8"


def test_no_dimension_is_baked_in(proto: onnx.ModelProto) -> None:
    """Every tensor of the residual stream keeps the batch open."""
    for value in proto.graph.value_info:
        if re.fullmatch(r"stage\d\.block\d\.\w+", value.name):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value.name


@pytest.mark.parametrize("opset", [17, 21, 0])
def test_opsets_out_of_range(opset: int) -> None:
    with pytest.raises(UsageError, match=f"--opset is {opset}: allowed are 18 to 20"):
        target.check_opset(opset)


def test_another_opset_than_asked_for_is_an_error(proto: onnx.ModelProto) -> None:
    with pytest.raises(DebiexportError, match="asked for opset 18, the exporter made"):
        target._verify(proto, 18)


def test_a_file_too_large_for_protobuf_is_an_error(proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DebiexportError, match="one ONNX file holds at most 1000"):
        target._verify(proto, 20)


def test_taps_are_known_without_exporting(tiny_card: Card) -> None:
    network = StaticNetwork.of(build_reference(random_checkpoint(tiny_card), (64, 64)))
    names = target.tap_names(network)
    assert set(stream_names(tiny_card)) < set(names)
