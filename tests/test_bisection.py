"""One weight, one constant or one attribute is corrupted at a time: the place and the operation are found.

The graph that a model is compared with is the one from which it was corrupted; that an export gives that graph
again is a test of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from test_checking import rehash

import debiexport
from debiexport import bisecting, operations
from debiexport.bisecting import BisectFailed, BisectResult, bisect, expected_model
from debiexport.bundle import open_bundle, sha256_of
from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.cli.report import bisect_lines
from debiexport.errors import BundleError, CheckpointError, MissingDependencyError, UsageError
from debiexport.graph.differences import compare_graphs
from debiexport.manifest import MANIFEST
from debiexport.parity_inputs import parity_images
from debiexport.places import PlaceParity

OneLine = Callable[[BaseException], str]


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images instead of seven: the faults here are in all of them."""
    monkeypatch.setattr(bisecting, "parity_images", lambda *arguments: parity_images(*arguments)[:2])


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes the model of a bundle, as it is now, what the checkpoint's export is expected to give."""

    def remember(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        monkeypatch.setattr(bisecting, "expected_model", lambda *arguments: model)

    return remember


@pytest.fixture(scope="session")
def _bi_bundle(tiny_bi_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from debiexport.export import export_onnx

    card = replace(tiny_bi_card, stages=tuple(replace(stage, blocks=1) for stage in tiny_bi_card.stages))
    folder = tmp_path_factory.mktemp("bundles") / "bi"
    return export_onnx(card, image_size=64, batch=None, opset=18, input="uint8", lowering="dense", output=folder).path


@pytest.fixture
def bi_bundle(_bi_bundle: Path, tmp_path: Path) -> Path:
    """A tiny BiFormer that differs in every option of the export: any batch, bytes, and routes that are masks."""
    return Path(shutil.copytree(_bi_bundle, tmp_path / "bi"))


# -------------------------------------------------------------------------------------- corruption


def nodes_in(model: onnx.ModelProto, where: str) -> Iterator[onnx.NodeProto]:
    """Nodes of a module of the network and of the modules inside it; `module/Kind` for one kind of operation."""
    scope, _, kind = where.partition("/")
    for node in model.graph.node:
        if f"{node.name.partition('/')[0]}.".startswith(f"{scope}.") and kind in ("", node.op_type):
            yield node


@dataclass(frozen=True)
class Found:
    """What a corruption did.

    Attributes:
        operation: the node that computes something else.
        words: what is to be said of it.
    """

    operation: str
    words: str


@dataclass(frozen=True)
class Weight:
    """One value of one weight."""

    name: str
    by: float = 0.05

    def __call__(self, model: onnx.ModelProto) -> Found:
        tensor = next(t for t in model.graph.initializer if t.name == self.name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[values.size // 2] += self.by
        tensor.CopyFrom(numpy_helper.from_array(values, self.name))
        reader = next(node for node in model.graph.node if self.name in node.input)
        words = f"{self.name} differs in 1 of {values.size} values, by at most {self.by:.2g}"
        return Found(reader.name, words)


@dataclass(frozen=True)
class Constant:
    """One tensor of numbers that are computed when exporting: the first that is read in a scope.

    Stretched, since a softmax does not notice when all of a bias is moved.
    """

    scope: str
    kind: type = np.floating
    only: str = ""

    def __call__(self, model: onnx.ModelProto) -> Found:
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in nodes_in(model, self.scope):
            for name in node.input:
                if name not in stored or self.only not in name:
                    continue
                values = numpy_helper.to_array(stored[name])
                if np.issubdtype(values.dtype, self.kind):
                    # For this node alone: equal constants are stored once.
                    spoilt = values * values.dtype.type(1.5) if self.kind is np.floating else np.zeros_like(values)
                    model.graph.initializer.append(numpy_helper.from_array(spoilt, f"{name}.spoilt"))
                    node.input[list(node.input).index(name)] = f"{name}.spoilt"
                    return Found(node.name, f"{name}.spoilt ")
        raise AssertionError(f"no such constant in {self.scope}")


@dataclass(frozen=True)
class Attribute:
    """One attribute of the first node in a scope that has it with its old value."""

    scope: str
    name: str
    value: Any
    text: str = ""

    def __call__(self, model: onnx.ModelProto) -> Found:
        for node in nodes_in(model, self.scope):
            for attribute in node.attribute:
                if attribute.name == self.name:
                    attribute.CopyFrom(helper.make_attribute(self.name, self.value))
                    return Found(node.name, f"attribute {self.name} is {self.text or self.value}, expected ")
        raise AssertionError(f"no attribute {self.name} in {self.scope}")


def corrupt(bundle: Path, fault: Callable[[onnx.ModelProto], Any]) -> Any:
    """Let a fault change the model, and the manifest vouch for it."""
    path = bundle / "model.onnx"
    model = onnx.load(path)
    found = fault(model)
    path.write_bytes(model.SerializeToString())
    rehash(bundle)
    return found


# ------------------------------------------------------------------------------------------- faults

FAULTS = [
    ("stage1.block1.pos_embed1", Weight("stem.conv1.weight")),
    ("stage1.block1.pos_embed1", Attribute("stem.conv2", "pads", [0, 0, 2, 2], "[0, 0, 2, 2]")),
    ("stage1.block1.pos_embed1", Weight("stage1.block1.pos_embed1.bias")),
    ("stage2.block1.pos_embed1", Weight("stage2.downsample.weight")),
    ("stage3.block1.pos_embed1", Attribute("stage3.downsample", "pads", [2, 2, 0, 0], "[2, 2, 0, 0]")),
    ("stage1.block1.attn1.affinity", Weight("stage1.block1.attn1.q.weight")),
    ("stage3.block1.attn1.affinity", Weight("stage3.block1.attn1.k.weight")),
    ("stage2.block1.attn1", Weight("stage2.block1.attn1.v.bias")),
    ("stage2.block1.attn1", Weight("stage2.block1.attn1.lepe.weight")),
    ("stage2.block1.attn1", Constant("stage2.block1.attn1.routing", np.integer, only="head_rows")),
    ("stage3.block1.attn1", Attribute("stage3.block1.attn1.routing/Softmax", "axis", -2)),
    ("stage3.block2.attn1.routes", Attribute("stage3.block2.attn1.routing/TopK", "largest", 0)),
    ("stage1.block1.attn2.affinity", Attribute("stage1.block1.attn2.offset.norm", "epsilon", 1e-2, "0.01")),
    ("stage2.block1.attn2.affinity", Constant("stage2.block1.attn2.positions", only=".centre")),
    ("stage2.block1.attn2.affinity", Constant("stage2.block1.attn2.sampling")),
    ("stage1.block1.attn2", Constant("stage1.block1.attn2.bias")),
    ("stage3.block2.attn2", Weight("stage3.block2.attn2.agent_v.weight")),
    ("stage4.block1.attn1", Weight("stage4.block1.attn1.proj.bias")),
    ("stage3.block2.mlp1", Weight("stage3.block2.mlp1.linear1.weight")),
    ("stage1.block1.mlp2", Attribute("stage1.block1.mlp2/Gelu", "approximate", "tanh", "tanh")),
    ("stage2.block1.mlp1", Attribute("stage2.block1.norm1", "epsilon", 1e-3, "0.001")),
    ("logits", Weight("head.weight")),
    ("logits", Attribute("head/Gemm", "alpha", 1.01, "1.01")),
]


def names(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("place", "fault"), FAULTS, ids=names)
def test_the_fault_is_found(
    static_bundle: Path, again: Callable[[Path], None], place: str, fault: Callable[[onnx.ModelProto], Found]
) -> None:
    again(static_bundle)
    found = corrupt(static_bundle, fault)
    result = bisect(static_bundle, threads=1)
    assert not result.ok
    assert result.first is not None and result.operation is not None
    assert result.first.name == place
    assert result.operation.name == found.operation
    (difference,) = result.operation.differences
    assert difference.startswith(found.words)
    assert place.startswith(result.operation.part)
    assert not result.operation.error <= result.operation.tolerance
    assert [note for note in result.notes if "mean nothing" not in note] == []


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("stage2.block1.attn2.affinity", Weight("stage2.block1.attn2.k.weight")),
        ("feature1", Attribute("feature1.norm", "epsilon", 1e-2, "0.01")),
        ("feature3", Weight("feature3.norm.bias")),
        ("feature4", Weight("feature4.norm.weight")),
    ],
    ids=names,
)
def test_the_fault_is_found_in_a_backbone(
    seg_bundle: Path, again: Callable[[Path], None], place: str, fault: Callable[[onnx.ModelProto], Found]
) -> None:
    again(seg_bundle)
    found = corrupt(seg_bundle, fault)
    result = bisect(seg_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert (result.first.name, result.operation.name) == (place, found.operation)
    (difference,) = result.operation.differences
    assert difference.startswith(found.words)


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("stage1.block1.pos_embed1", Constant("pixels", only="shift")),
        ("stage1.block1.pos_embed1", Weight("stem.conv1.bias")),
        ("stage4.block1.mlp2", Weight("stage4.block1.mlp2.linear2.bias")),
    ],
    ids=names,
)
def test_the_fault_is_found_in_a_model_of_bytes(
    uint8_bundle: Path, again: Callable[[Path], None], place: str, fault: Callable[[onnx.ModelProto], Found]
) -> None:
    again(uint8_bundle)
    found = corrupt(uint8_bundle, fault)
    result = bisect(uint8_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert (result.first.name, result.operation.name) == (place, found.operation)


def test_routes_that_are_masks(bi_bundle: Path, again: Callable[[Path], None]) -> None:
    again(bi_bundle)
    found = corrupt(bi_bundle, Weight("stage2.block1.attn.v.weight"))
    result = bisect(bi_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert (result.first.name, result.operation.name) == ("stage2.block1.attn", found.operation)


def _sum_of_images(model: onnx.ModelProto) -> Found:
    """What a convolution reads goes through a running sum over the batch, which one image does not notice."""
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.name == "stage1.block1.mlp1.linear1/Conv")
    read = nodes[place].input[0]
    nodes[place].input[0] = "summed"
    nodes.insert(place, helper.make_node("CumSum", [read, "first axis"], ["summed"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "first axis"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return Found(nodes[place + 1].name, f"input 0 is summed, expected {read}")


def test_a_fault_that_only_a_batch_shows(dynamic_bundle: Path, again: Callable[[Path], None]) -> None:
    again(dynamic_bundle)
    found = corrupt(dynamic_bundle, _sum_of_images)
    result = bisect(dynamic_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert (result.first.name, result.operation.name) == ("stage1.block1.mlp1", found.operation)
    assert result.operation.differences == (found.words,)
    assert result.operation.seen_on == "image noise, batch 2"
    assert "1 operation is only in it (summed)" in "\n".join(result.notes)


def _number_of_regions(model: onnx.ModelProto) -> Found:
    node = next(nodes_in(model, "stage1.block1.attn2.routing/TopK"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    node.input[1] = "one"
    return Found(node.name, "one is 1, expected 2")


def test_another_number_of_regions(static_bundle: Path, again: Callable[[Path], None]) -> None:
    """A mask takes any number of regions; the reference is not forced to what is no choice of two."""
    again(static_bundle)
    found = corrupt(static_bundle, _number_of_regions)
    result = bisect(static_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert result.first.name == "stage1.block1.attn2.routes"
    assert result.operation.name == found.operation
    assert result.operation.differences == (found.words,)
    assert result.operation.shape != result.operation.expected_shape


def test_two_faults_are_reported_in_order(static_bundle: Path, again: Callable[[Path], None]) -> None:
    again(static_bundle)
    corrupt(static_bundle, Weight("stage4.block1.mlp1.linear1.weight"))
    found = corrupt(static_bundle, Weight("stage2.block1.mlp1.linear2.bias"))
    result = bisect(static_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert (result.first.name, result.operation.name) == ("stage2.block1.mlp1", found.operation)


# ------------------------------------------------------------------------------------- nothing is off


@pytest.mark.parametrize("kind", ["dynamic_bundle", "seg_bundle", "bi_bundle"])
def test_nothing_is_off(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("exported although nothing is off")

    monkeypatch.setattr(bisecting, "expected_model", never)
    lines: list[str] = []
    result = bisect(request.getfixturevalue(kind), threads=1, progress=lines.append)
    assert result.ok
    assert result.first is None and result.operation is None
    assert result.worst.ratio < 0.6, "far from the tolerance"
    assert max(result.places, key=lambda place: place.ratio) == result.worst
    assert "none of " in str(result) and "parity holds" in str(result)
    assert "comparing" in lines[-1]
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["first"] is data["operation"] is None
    assert len(data["places"]) == len(result.places)
    assert "none of" in bisect_lines(result)[-2]


def test_an_export_gives_the_same_graph_again(bi_bundle: Path) -> None:
    bundle = open_bundle(bi_bundle)
    model = onnx.load(bi_bundle / "model.onnx")
    expected = expected_model(bundle, random_checkpoint(bundle.manifest.card))
    assert not compare_graphs(model, expected)
    assert expected.opset_import[0].version == 18
    assert [node.name for node in model.graph.node] == [node.name for node in expected.graph.node]


# --------------------------------------------------------------------------------- how it is reported


def test_the_result_is_told(static_bundle: Path, again: Callable[[Path], None], one_line: OneLine) -> None:
    again(static_bundle)
    corrupt(static_bundle, Weight("stage2.block1.mlp1.linear1.weight"))
    result = bisect(static_bundle, threads=1)
    text = "\n".join(bisect_lines(result))
    for words in (
        "stage2.block1.mlp1 (N, 16, 8, 8): error",
        "stage2.block1.mlp1.linear1/Conv (3, 32, 8, 8): error",
        "stage2.block1.mlp1.linear1.weight differs in 1 of 512 values, by at most 0.05",
        "seen on image noise, batch 3",
        "parity is lost",
    ):
        assert words in text
    message = one_line(BisectFailed(result))
    assert "first off at stage2.block1.mlp1, operation stage2.block1.mlp1.linear1/Conv" in message
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["first"]["name"] == "stage2.block1.mlp1"
    assert data["first"]["shape"] == [16, 8, 8]
    assert data["operation"]["output"] == "stage2.block1.mlp1.linear1/Conv"
    assert data["operation"]["shape"] == [3, 32, 8, 8]


def test_values_that_are_no_numbers(static_bundle: Path, again: Callable[[Path], None]) -> None:
    again(static_bundle)
    corrupt(static_bundle, Weight("stage3.block1.mlp1.linear2.bias", by=float("nan")))
    result = bisect(static_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert result.first.name == "stage3.block1.mlp1"
    assert result.operation.name == "stage3.block1.mlp1.linear2/Conv"
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["operation"]["error"] is None


def test_a_place_that_is_off_though_parity_holds(static_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told, but parity decides."""
    result = bisect(static_bundle, threads=1)
    off = replace(result.places[3], error=1.0)
    told = replace(result, places=(*result.places[:3], off, *result.places[4:]))
    assert told.ok
    assert told.first == told.worst == off
    *_, reason, verdict = bisect_lines(told)
    assert reason == "no operation was found that is beyond its tolerance by itself"
    assert verdict.startswith("parity holds")


def test_places_for_people() -> None:
    routes = PlaceParity("a.routes", (4, 2), rows=8, wrong=3)
    assert str(routes) == "a.routes (N, 4, 2): 3 of 8 regions are routed wrongly"
    place = PlaceParity("a", (8, 4, 4), 2e-6, 1.25e-7, 1e-6)
    assert str(place) == "a (N, 8, 4, 4): error 2.0e-06 is 2 times the tolerance 1.0e-06"


# ---------------------------------------------------------------------------------- other structures


def _renamed(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name.startswith(old):
                        names[i] = new + name.removeprefix(old)

    return rename


def test_another_structure_is_told_and_the_rest_compared(static_bundle: Path, again: Callable[[Path], None]) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        for suffix in ("", "/Transpose"):
            _rename_exactly(model, f"stage1.block1.mlp1{suffix}")
        Weight("stage1.block1.mlp1.linear2.bias")(model)

    again(static_bundle)
    corrupt(static_bundle, spoil)
    result = bisect(static_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert result.first.name == "stage1.block1.pos_embed2", "what ended at the missing place belongs to the next part"
    assert result.operation.name == "stage1.block1.mlp1.linear2/Conv"
    notes = "\n".join(result.notes)
    assert "1 place is not in the model, their parts count to the next: stage1.block1.mlp1" in notes
    assert "the model's graph is not the one that is exported here" in notes
    assert "1 operation is only in it (elsewhere) and 1 operation is only expected (stage1.block1.mlp1)" in notes


def _rename_exactly(model: onnx.ModelProto, old: str, new: str = "elsewhere") -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def test_versions_are_named_where_the_structure_differs(static_bundle: Path, again: Callable[[Path], None]) -> None:
    again(static_bundle)
    corrupt(static_bundle, lambda model: (_rename_exactly(model, "stem.conv1/Conv"), Weight("stem.conv2.bias")(model)))
    data = json.loads((static_bundle / MANIFEST).read_text())
    data["versions"]["torch"] = "1.0"
    (static_bundle / MANIFEST).write_text(json.dumps(data))
    result = bisect(static_bundle, threads=1)
    assert result.operation is not None
    assert result.operation.name == "stem.conv2/Conv"
    assert f"it was made with torch 1.0, here {torch.__version__}" in "\n".join(result.notes)


def test_a_lowering_of_another_version(static_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is found all the same."""

    def refuse(*arguments: object) -> None:
        raise UsageError("no implementation 'new' of the slot bias")

    corrupt(static_bundle, Weight("stage2.block1.mlp1.linear1.weight"))
    monkeypatch.setattr(bisecting, "expected_model", refuse)
    result = bisect(static_bundle, threads=1)
    assert result.first is not None
    assert (result.first.name, result.operation) == ("stage2.block1.mlp1", None)
    assert "cannot be exported here: no implementation 'new'" in result.notes[-1]


def test_a_node_is_off_for_what_is_before_it(
    static_bundle: Path, again: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the fault is within the tolerance at its own node, what differs before is said."""
    again(static_bundle)
    corrupt(static_bundle, Weight("stage2.block1.mlp1.linear1.weight"))
    measured = operations._error
    first: list[object] = []

    def forgiving(actual: Any, expected: Any) -> tuple[float, float]:
        error, tolerance = measured(actual, expected)
        if error > tolerance and not first:
            first.append(actual)
            return 0.0, tolerance
        return error, tolerance

    monkeypatch.setattr(operations, "_error", forgiving)
    result = bisect(static_bundle, threads=1)
    assert result.operation is not None
    assert result.operation.name == "stage2.block1.mlp1.dwc/Conv"
    assert result.operation.differences == ()
    assert (
        "itself is as expected; in stage2.block1.mlp1.linear1/Conv, stage2.block1.mlp1.linear1.weight differs"
        in (result.notes[-1])
    )


def test_no_difference_means_that_the_file_is_not_to_blame(
    static_bundle: Path, again: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt(static_bundle, Weight("stage2.block1.mlp1.linear1.weight"))
    again(static_bundle)  # as if the export were at fault
    result = bisect(static_bundle, threads=1)
    assert result.first is not None
    assert result.first.name == "stage2.block1.mlp1"
    assert result.operation is None
    assert "what is off is the rewrite or the runtime" in result.notes[-1]


def test_a_fault_that_is_small_at_its_own_place(
    static_bundle: Path, again: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts before the first place are searched too, and it is said."""
    again(static_bundle)
    found = corrupt(static_bundle, Weight("stage2.block1.mlp1.linear1.weight"))
    measure = bisecting.measure_places

    def forgiving(*arguments: Any) -> list[PlaceParity]:
        places = measure(*arguments)
        return [replace(p, error=0.0) if p.name == "stage2.block1.mlp1" else p for p in places]

    monkeypatch.setattr(bisecting, "measure_places", forgiving)
    result = bisect(static_bundle, threads=1)
    assert result.first is not None and result.operation is not None
    assert result.first.name == "stage2.block1.pos_embed2"
    assert result.operation.name == found.operation
    assert "stage2.block1.pos_embed2 are as expected; the one found is in stage2.block1.mlp1" in "\n".join(result.notes)


def test_what_is_within_the_tolerance_is_no_fault(
    static_bundle: Path, again: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    again(static_bundle)
    corrupt(static_bundle, Weight("stage2.block1.mlp1.linear1.weight"))
    monkeypatch.setattr(operations, "TOLERANCE", 1e9)
    result = bisect(static_bundle, threads=1)
    assert result.operation is None
    assert result.notes[-1] == "no operation leaves its tolerance by itself"


# ---------------------------------------------------------------------------------------- refusals


def test_without_torch(static_bundle: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr("debiexport.extras.missing", lambda packages: ["torch"])
    with pytest.raises(MissingDependencyError) as caught:
        bisect(static_bundle)
    assert "pip install 'debiexport[export]'" in one_line(caught.value)


def test_without_weights(static_bundle: Path, one_line: OneLine) -> None:
    data = json.loads((static_bundle / MANIFEST).read_text())
    data["checkpoint"] = {"description": "gone.pth", "sha256": "0" * 64}
    (static_bundle / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"\(gone\.pth\) are not here: give --checkpoint") as caught:
        bisect(static_bundle)
    one_line(caught.value)


def test_another_networks_checkpoint(static_bundle: Path, tiny_bi_card: Card, tmp_path: Path) -> None:
    torch.save(random_checkpoint(tiny_bi_card).state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        bisect(static_bundle, tmp_path / "other.pth")


def test_other_weights_of_the_same_network(bi_bundle: Path, tmp_path: Path) -> None:
    """With a foreign checkpoint everything is off from the first operation on, and it is said whose fault that is."""
    card = open_bundle(bi_bundle).manifest.card
    torch.save(random_checkpoint(card, seed=1).state, tmp_path / "other.pth")
    result = bisect(bi_bundle, tmp_path / "other.pth", threads=1)
    assert result.first is not None and result.operation is not None
    assert result.first.name == "stage1.block1.pos_embed"
    assert result.operation.name == "stem.conv1/Conv"
    assert "stem.conv1.weight differs in 108 of 108 values" in result.operation.differences[0]
    assert any("other.pth is not the file that was exported" in note for note in result.notes)


def test_an_altered_file_is_refused_as_ever(static_bundle: Path) -> None:
    with (static_bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="bytes"):
        bisect(static_bundle)


@pytest.mark.parametrize("longer", [True, False])
def test_a_changed_model_can_be_bisected_with_its_own_hash_and_size(
    static_bundle: Path, longer: bool, one_line: OneLine
) -> None:
    model = static_bundle / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content + b"\0" if longer else content[:-1] + b"\0")
    with pytest.raises(BundleError) as caught:
        bisect(static_bundle)
    assert one_line(caught.value).endswith(
        f"bisect it as it is: in the entry of model.onnx in {static_bundle / MANIFEST} set sha256 to"
        f" {sha256_of(model)} and bytes to {model.stat().st_size}"
    )


def test_other_files_and_missing_models_get_no_such_advice(static_bundle: Path) -> None:
    (static_bundle / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"export again$"):
        bisect(static_bundle)
    (static_bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"export again$"):
        bisect(static_bundle)


def test_a_model_without_the_stable_names(static_bundle: Path, one_line: OneLine) -> None:
    corrupt(static_bundle, _renamed("stage", "layer"))
    with pytest.raises(BundleError, match=r"no tensor 'stage1\.block1\.pos_embed1' nor any other of the 30") as caught:
        bisect(static_bundle)
    one_line(caught.value)


def test_a_model_without_its_routes(static_bundle: Path, again: Callable[[Path], None], one_line: OneLine) -> None:
    again(static_bundle)
    corrupt(static_bundle, lambda model: _rename_exactly(model, "stage2.block1.attn1.routes"))
    with pytest.raises(BundleError, match=r"has no tensor 'stage2\.block1\.attn1\.routes'") as caught:
        bisect(static_bundle)
    assert "it is not the graph of the checkpoint" in one_line(caught.value)


def _bad_shape(model: onnx.ModelProto) -> None:
    node = next(n for n in nodes_in(model, "head") if n.op_type == "Reshape" and "logits" in n.output)
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, 7, 7]), "bad"))
    node.input[1] = "bad"


def test_a_model_that_cannot_be_run(static_bundle: Path, again: Callable[[Path], None], one_line: OneLine) -> None:
    again(static_bundle)
    corrupt(static_bundle, _bad_shape)
    with pytest.raises(BundleError, match="not the graph of the checkpoint: in logits, bad has the shape") as caught:
        bisect(static_bundle)
    one_line(caught.value)


def test_it_is_public() -> None:
    assert debiexport.bisect is bisect
    assert debiexport.BisectResult is BisectResult
