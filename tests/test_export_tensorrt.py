"""`export_tensorrt`: typed models with and without fused operations, their engines, and what is refused."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import tiny_bi_toml, tiny_wide_toml
from fake_tensorrt import FakeTensorRT
from onnx import TensorProto, numpy_helper
from rtx_models import needs_rtx

from debiexport.bundle import GOLDEN, MODEL, is_unverified, open_bundle, sha256_of
from debiexport.cards import Card, parse_card
from debiexport.checking import check
from debiexport.errors import DebiexportError, EngineError, MissingDependencyError, OutputError, ParityError, UsageError
from debiexport.export import ExportResult, UnverifiedExport, export_tensorrt
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.golden import read_golden
from debiexport.manifest import MANIFEST, TENSORRT
from debiexport.metrics import psnr_db
from debiexport.names import LOGITS
from debiexport.prediction import predict
from debiexport.runtimes.ort import OrtRuntime
from debiexport.signature import IMAGES
from debiexport.targets.tensorrt import rtx
from debiexport.targets.tensorrt.fingerprint import Fingerprint
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.record import EngineRecord
from debiexport.targets.tensorrt.rtx_report import RtxBuild

pytest.importorskip("onnx_graphsurgeon")
pytestmark = [needs_rtx, pytest.mark.usefixtures("kept_conversions")]

OneLine = Callable[[BaseException], str]
FP16, FP32 = TensorProto.FLOAT16, TensorProto.FLOAT
RANGE = Profile(1, 2, 4)


def export(card: Card, folder: Path, **options: Any) -> ExportResult:
    options = {"image_size": 64, "engine": "none", **options}
    return export_tensorrt(card, output=folder, **options)


def model_of(bundle: Path, file: str = "model.onnx") -> onnx.ModelProto:
    return onnx.load(str(bundle / file))


def record_of(bundle: Path) -> EngineRecord:
    (engine,) = open_bundle(bundle).engines
    return EngineRecord.from_dict(engine.engine)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def choosing(geometry: Geometry) -> list[AttentionGeometry]:
    return [attention for attention in geometry.routed if not attention.routes_everywhere]


def deformable(geometry: Geometry) -> list[AttentionGeometry]:
    return [attention for attention in geometry.routed if attention.kind == "dbra"]


# ------------------------------------------------------------------------------- the bundle


def test_the_bundle(tensorrt_bundle: Path) -> None:
    bundle = open_bundle(tensorrt_bundle)
    manifest = bundle.manifest
    assert (manifest.target, manifest.lowering.name, manifest.checkpoint_sha256) == (TENSORRT, "native", None)
    assert [(artifact.role, artifact.path) for artifact in manifest.artifacts] == [
        ("model", "model.onnx"),
        ("golden", "golden.npz"),
        ("engine", "model.plan"),
    ]
    assert sorted(path.name for path in tensorrt_bundle.iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.onnx",
        "model.plan",
    ]
    (model,), (engine,) = bundle.models, bundle.engines
    assert (model.batch, model.precision, model.opset, model.engine) == (1, "fp16", 20, None)
    assert [(t.name, t.dtype, t.shape) for t in (*model.inputs, *model.outputs)] == [
        (IMAGES, "float32", (1, 3, 64, 64)),
        (LOGITS, "float32", (1, 6)),
    ]
    assert (engine.precision, engine.batch, engine.inputs) == ("fp16", None, ())
    assert manifest.parity["ok"] and manifest.parity["precision"] == "fp16" and manifest.parity["min_psnr_db"] == 55
    assert {"onnx-graphsurgeon", "torch", "debiexport"} <= set(manifest.versions)
    assert manifest.to_dict().keys().isdisjoint({"session_options", "placement"})


def test_what_the_engine_is_bound_to_and_what_it_holds(tensorrt_bundle: Path) -> None:
    geometry, record = open_bundle(tensorrt_bundle).geometry, record_of(tensorrt_bundle)
    assert (record.model, record.profile) == ("model.onnx", Profile(1, 1, 1))
    assert record.fingerprint == Fingerprint("rtx", record.fingerprint.version, None, ("8.9",))
    assert record.fingerprint.version.startswith("1.")
    contents = record.contents
    # Every routed attention is one, and so is every broadcast of the agents.
    assert contents["native_attentions"] == len(geometry.routed) + len(deformable(geometry))
    layers = contents["layer_types"]
    assert layers["TOPK"] == len(choosing(geometry)) and layers["SOFTMAX"] == contents["native_attentions"]
    assert {"GRID_SAMPLE", "PLUGIN_V3", "PLUGIN_V2"}.isdisjoint(layers)
    assert sum(layers.values()) == contents["layers"]
    types = contents["tensor_types"]
    assert types["float16"] > types["float32"] > 0 and "bfloat16" not in types
    assert contents["scratch_bytes"] > 0


def test_types_inside(tensorrt_bundle: Path) -> None:
    """Products and convolutions in float16, what chooses and what moves in float32; outside all is float32."""
    model, geometry = model_of(tensorrt_bundle), open_bundle(tensorrt_bundle).geometry
    types = types_of(model)
    assert [(v.name, types[v.name]) for v in (*model.graph.input, *model.graph.output)] == [
        (IMAGES, FP32),
        (LOGITS, FP32),
    ]
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            wanted = FP32 if ".offset.pointwise/" in node.name else FP16
            assert {types[name] for name in (*node.input, *node.output)} == {wanted}, node.name
        if node.op_type in ("Softmax", "TopK"):
            assert types[node.input[0]] == FP32, node.name
    for attention in choosing(geometry):
        assert (types[attention.site.affinity], types[attention.site.routes]) == (FP32, TensorProto.INT64)


def test_operations_that_are_misread_elsewhere_are_absent(tensorrt_bundle: Path) -> None:
    model, geometry = model_of(tensorrt_bundle), open_bundle(tensorrt_bundle).geometry
    operations = Counter(node.op_type for node in model.graph.node)
    assert "GridSample" not in operations and not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {node.input[0]: constants[node.input[1]].item() for node in model.graph.node if node.op_type == "TopK"}
    assert found == {attention.site.affinity: attention.top_k for attention in choosing(geometry)}


def test_names_and_metadata(tensorrt_bundle: Path) -> None:
    model, manifest = model_of(tensorrt_bundle), open_bundle(tensorrt_bundle).manifest
    told = {entry.key.removeprefix("debiexport."): entry.value for entry in model.metadata_props}
    assert json.loads(told["card"]) == manifest.card.to_dict()
    assert json.loads(told["lowering"]) == manifest.lowering.to_dict()
    assert (told["precision"], told["image_size"], told["input"]) == ("fp16", "64x64", "normalized")
    assert (model.producer_name, model.graph.name) == ("debiexport", "tiny_wide")
    names = {name for node in model.graph.node for name in node.output}
    for attention in choosing(Geometry.of(manifest.card, (64, 64))):
        assert {attention.site.affinity, attention.site.routes} <= names
    assert {"stem.conv1/Conv", "stage1.block1.attn2.broadcast/MatMul"} <= {node.name for node in model.graph.node}


def test_the_same_export_gives_the_same_bytes(
    tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = export(tiny_bi_card, tmp_path / "once", engine="rtx").path
    monkeypatch.undo()  # the network is converted once more
    again = export(tiny_bi_card, tmp_path / "again", engine="rtx").path
    names = sorted(path.name for path in once.iterdir())
    assert names == ["golden.npz", "manifest.json", "model.onnx", "model.plan"]
    for name in names:
        assert (once / name).read_bytes() == (again / name).read_bytes(), name


def test_float32_is_the_network_to_rounding(tiny_bi_card: Card, tmp_path: Path) -> None:
    result = export(tiny_bi_card, tmp_path / "out", precision="fp32")
    assert min(output.psnr_db for output in result.parity.outputs) > 120
    assert result.parity.min_psnr_db == 110 and result.engines == ()
    assert [artifact.role for artifact in result.manifest.artifacts] == ["model", "golden"]
    model = model_of(result.path)
    assert FP16 not in types_of(model).values() and "Cast" not in {node.op_type for node in model.graph.node}


def test_a_range_of_batches(tiny_bi_card: Card, tmp_path: Path) -> None:
    result = export(tiny_bi_card, tmp_path / "out", batches=[RANGE], engine="rtx")
    (model,) = open_bundle(result.path).models
    assert model.batch is None and model.inputs[0].shape == (None, 3, 64, 64)
    side = model_of(result.path).graph.input[0].type.tensor_type.shape.dim[0]
    assert side.dim_param and not side.dim_value
    assert record_of(result.path).profile == RANGE
    assert {output.batch for output in result.parity.outputs} > {1}
    (line,) = result.engines
    assert line.startswith("model.plan: TensorRT for RTX ") and ", batch 1:2:4, " in line
    assert "all 6 native attentions recognised" in line


def test_several_batches(tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_building(monkeypatch)
    result = export(tiny_bi_card, tmp_path / "out", batches=[1, RANGE], engine="rtx", capabilities=["sm86", "sm120"])
    bundle = open_bundle(result.path)
    assert [(m.path, m.batch) for m in bundle.models] == [("model-b1.onnx", 1), ("model-b1-2-4.onnx", None)]
    records = [EngineRecord.from_dict(engine.engine) for engine in bundle.engines]
    assert [(e.path, r.model, r.profile) for e, r in zip(bundle.engines, records, strict=True)] == [
        ("model-b1.plan", "model-b1.onnx", Profile(1, 1, 1)),
        ("model-b1-2-4.plan", "model-b1-2-4.onnx", RANGE),
    ]
    assert records[0].fingerprint.compute_capabilities == ("8.6", "12.0")
    assert check(result.path).parity.ok


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "tiny_biformer-tensorrt-64x64-b1-fp16"),
        ({"precision": "fp32", "plugins": True}, "tiny_biformer-tensorrt-64x64-b1-fp32-plugins"),
        ({"batches": [1, 8]}, "tiny_biformer-tensorrt-64x64-b1-8-fp16"),
        ({"batches": [RANGE]}, "tiny_biformer-tensorrt-64x64-bdynamic-1-2-4-fp16"),
    ],
)
def test_where_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine, options: dict[str, Any], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts" / name).mkdir(parents=True)
    with pytest.raises(OutputError) as caught:
        export_tensorrt(_wide_bi_card(), image_size=64, engine="none", **options)
    assert name in one_line(caught.value)


def test_predict_takes_it(tensorrt_bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    image = tmp_path / "x.png"
    Image.new("RGB", (80, 70), (10, 200, 30)).save(image)
    result = predict(tensorrt_bundle, [image])
    assert len(result.predictions[0].classes) == 5
    (note,) = result.notes
    assert "random, seed 0" in note


# ------------------------------------------------------------------------------- fused operations


def test_the_bundle_of_fused_operations(plugins_bundle: Path) -> None:
    bundle = open_bundle(plugins_bundle)
    assert (bundle.manifest.lowering.name, bundle.engines) == ("plugins", ())
    assert [artifact.role for artifact in bundle.manifest.artifacts] == ["model", "golden"]
    assert bundle.manifest.parity["ok"]
    model, geometry = model_of(plugins_bundle), bundle.geometry
    counts = Counter(node.op_type for node in model.graph.node if node.domain == "debiexport")
    assert counts == {"RegionAttention": len(choosing(geometry)), "AgentAttention": len(deformable(geometry))}
    assert {(function.domain, function.name) for function in model.functions} == {
        ("debiexport", "RegionAttention"),
        ("debiexport", "AgentAttention"),
    }
    # Where all regions are attended to there is nothing to route, and TensorRT fuses it by itself.
    everywhere = len(geometry.routed) - len(choosing(geometry))
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == everywhere > 0
    types = types_of(model)
    for node in model.graph.node:
        if node.domain == "debiexport":
            told = [types[name] for name in node.input]
            assert told[:3] == [FP16] * 3 and types[node.output[0]] == FP16, node.name
            assert told[3:] == ([TensorProto.INT32] if node.op_type == "RegionAttention" else [FP32, FP32]), node.name


def test_runtimes_without_the_kernels_compute_the_same(plugins_bundle: Path) -> None:
    """ONNX Runtime computes float16 in float32, so the two differ by what float16 rounds."""
    bundle = open_bundle(plugins_bundle)
    images = read_golden(bundle.file(GOLDEN), bundle.geometry).images[:1]
    ort = OrtRuntime(bundle.file(MODEL), threads=1).run({IMAGES: images})[LOGITS]
    evaluated = bundle.runtime().run({IMAGES: images})[LOGITS]
    assert ort.dtype == evaluated.dtype == np.float32 and np.isfinite(ort).all()
    assert psnr_db(ort, evaluated) > 55


def test_several_batches_of_fused_operations(tmp_path: Path) -> None:
    result = export(_wide_bi_card(), tmp_path / "out", plugins=True, batches=[1, 3], engine="rtx")
    bundle = open_bundle(result.path)
    assert [(model.path, model.batch) for model in bundle.models] == [("model-b1.onnx", 1), ("model-b3.onnx", 3)]
    assert bundle.engines == () and [output.batch for output in result.parity.outputs] == [1, 3]
    for line, batch in zip(result.engines, (1, 3), strict=True):
        assert f", batch {batch}: takes the graph with {len(choosing(bundle.geometry))} plugins" in line
        assert "no engine is kept" in line and "--engine tensorrt where the GPU is" in line
    functions = model_of(result.path, "model-b3.onnx").functions
    assert [function.name for function in functions] == ["RegionAttention"]


def test_a_padded_backbone_with_fused_operations(tmp_path: Path) -> None:
    """Sizes that S does not divide, and maps instead of classes."""
    text = tiny_wide_toml().replace("num_classes = 6", 'outputs = "features"')
    result = export(parse_card(text.encode(), "x.toml"), tmp_path / "out", image_size=(72, 100), plugins=True)
    bundle = open_bundle(result.path)
    assert any(attention.padded_size != attention.query_size for attention in bundle.geometry.routed)
    (model,) = bundle.models
    assert [(t.name, t.shape[1:]) for t in model.outputs] == list(bundle.geometry.output_shapes.items())
    counts = Counter(node.op_type for node in model_of(result.path).graph.node if node.domain == "debiexport")
    assert counts == {
        "RegionAttention": len(choosing(bundle.geometry)),
        "AgentAttention": len(deformable(bundle.geometry)),
    }


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "--precision is 'int8': give fp32 or fp16"),
        ({"engine": "trt"}, "--engine is 'trt': give tensorrt, rtx, none"),
        ({"engine": "rtx", "capabilities": ["sm90"]}, "--gpu sm90 is not served by TensorRT for RTX: choose from sm75"),
        ({"engine": "rtx", "capabilities": []}, "--gpu names no compute capability"),
        ({"capabilities": ["sm89"]}, "--gpu is for --engine rtx, and with --engine none the engine is not built"),
        ({"engine": "rtx", "timing_cache": "cache"}, "--timing-cache is for --engine tensorrt, and this is --engine r"),
        ({"batches": []}, "give 1 to 8 different ones"),
        ({"batches": range(1, 10)}, "--batch is 1,2,3,4,5,6,7,8,9: give 1 to 8 different ones"),
        ({"batches": [2, Profile(2, 2, 2)]}, "--batch is 2,2: give 1 to 8 different ones"),
        ({"batches": [0]}, "--batch is 0"),
        ({"batches": ["1"]}, "--batch is '1': give a whole number"),
        ({"batches": [True]}, "--batch is True: give a whole number"),
        ({"batches": [RANGE], "plugins": True}, "--batch is 1:2:4, and sizes are constants of the kernels of --plug"),
        ({"plugins": True}, "--plugins: routing=fused does not serve stage1.block1.attn1: heads are 8 channels wide"),
        ({"top_k": (5, 1, 1, 1)}, "--top-k"),
    ],
)
def test_refusals(tiny_card: Card, tmp_path: Path, one_line: OneLine, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        export(tiny_card, tmp_path / "out", **options)
    assert words in one_line(caught.value) and caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_that_does_not_cover_the_network_is_not_recommended(
    tiny_card: Card, tmp_path: Path, one_line: OneLine
) -> None:
    with pytest.raises(UsageError) as caught:
        export(tiny_card, tmp_path / "out", plugins=True)
    assert one_line(caught.value).endswith("the kernel takes 16, 32, 64, 128; leave --plugins out")


def test_full_tensorrt_without_a_gpu(tiny_card: Card, tmp_path: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    trt.cuda.count = 0
    with pytest.raises(MissingDependencyError) as caught:
        export(tiny_card, tmp_path / "out", engine="tensorrt")
    text = one_line(caught.value)
    assert "needs an NVIDIA GPU" in text and "--engine rtx" in text and "--engine none" in text
    assert caught.value.exit_code == 5 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "words"), [("tensorrt_rtx", "[rtx]"), ("onnx_graphsurgeon", "[tensorrt]")])
def test_packages_that_are_missing(
    tiny_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine, package: str, words: str
) -> None:
    import debiexport.extras as extras

    whole = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == package else whole(name))
    with pytest.raises(MissingDependencyError) as caught:
        export(tiny_card, tmp_path / "out", engine="rtx")
    assert words in one_line(caught.value) and caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_float16_cannot_hold(
    tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    from debiexport.targets import onnx as target

    convert = target.to_onnx
    monkeypatch.setattr(target, "to_onnx", lambda *a, **b: _scaled(convert(*a, **b), "stem.conv1.weight", 1e6))
    with pytest.raises(UsageError) as caught:
        export(tiny_bi_card, tmp_path / "out")
    text = one_line(caught.value)
    assert text.startswith("stem.conv1.weight, folded from") and text.endswith("export with --precision fp32")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists(tiny_bi_card: Card, tensorrt_bundle: Path, one_line: OneLine) -> None:
    before = sha256_of(tensorrt_bundle / MANIFEST)
    with pytest.raises(OutputError) as caught:
        export(tiny_bi_card, tensorrt_bundle)
    assert "--force" in one_line(caught.value)
    assert sha256_of(tensorrt_bundle / MANIFEST) == before
    assert export(tiny_bi_card, tensorrt_bundle, force=True).manifest.card == tiny_bi_card
    assert not (tensorrt_bundle / "model.plan").exists()


# ------------------------------------------------------------------------------- parity that is lost


def test_an_overflow_is_found_and_its_node_named(
    tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every weight fits in float16, and what the node makes of them does not."""
    _edit_typed(monkeypatch, lambda model: _scaled(model, "stage2.block1.mlp.linear1.weight", largest=6e4))
    lines: list[str] = []
    with pytest.raises(UnverifiedExport) as caught:
        export(tiny_bi_card, tmp_path / "out", engine="rtx", progress=lines.append)
    text = str(caught.value)
    assert caught.value.exit_code == 3 and "export with --precision fp32" in text
    assert "in model.onnx 'stage2.block1.mlp.linear1/Gemm' is the first tensor that is not finite" in text
    assert [path.name for path in tmp_path.iterdir()] == ["out.unverified"]
    left = tmp_path / "out.unverified"
    assert sorted(path.name for path in left.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    assert not any(line.startswith("building") for line in lines)
    with pytest.raises(ParityError):
        check(left)


def test_a_wrong_weight_is_found(tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _edit_typed(monkeypatch, lambda model: _scaled(model, "stage3.block1.mlp.linear2.weight", 1.3))
    with pytest.raises(UnverifiedExport) as caught:
        export(tiny_bi_card, tmp_path / "out")
    assert caught.value.exit_code == 3 and "PSNR" in str(caught.value)
    assert "not finite" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.unverified"]


def test_one_of_several_models_is_enough(tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(model: onnx.ModelProto) -> onnx.ModelProto:
        is_ranged = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        return _scaled(model, "stage3.block1.mlp.linear2.weight", 1.3) if is_ranged else model

    _edit_typed(monkeypatch, second)
    with pytest.raises(UnverifiedExport):
        export(tiny_bi_card, tmp_path / "out", batches=[1, RANGE])
    assert [path.name for path in tmp_path.iterdir()] == ["out.unverified"]


def test_onnx_runtime_has_to_take_it_too(
    tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    def run(self: OrtRuntime, inputs: Any, taps: Any = ()) -> dict[str, np.ndarray]:
        return {LOGITS: np.full((1, 6), np.nan, np.float32)}

    monkeypatch.setattr(OrtRuntime, "run", run)
    with pytest.raises(ParityError) as caught:
        export(tiny_bi_card, tmp_path / "out")
    assert one_line(caught.value) == "ONNX Runtime gives logits of model.onnx with numbers that are not finite"
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- builders that fail


def _fails(*args: Any, **options: Any) -> RtxBuild:
    raise EngineError("the process of TensorRT for RTX died: signal 11")


def test_a_builder_that_fails_leaves_nothing(
    tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx, "build", _fails)
    with pytest.raises(EngineError, match="signal 11") as caught:
        export(tiny_bi_card, tmp_path / "out", engine="rtx")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: {"attentions": found.attentions[1:]}, "did not recognise 1 of 12 products of attentions, such "),
        (lambda found: {"attentions": ()}, "did not recognise 12 of 12"),
    ],
)
def test_attentions_that_are_not_fused(
    tiny_bi_card: Card,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_line: OneLine,
    change: Callable[[RtxBuild], dict[str, Any]],
    words: str,
) -> None:
    _without_building(monkeypatch, lambda found: replace(found, **change(found)))
    with pytest.raises(EngineError) as caught:
        export(tiny_bi_card, tmp_path / "out", engine="rtx")
    assert words in one_line(caught.value) and caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- full TensorRT


def test_full_tensorrt(engine_bundle: Path) -> None:
    bundle = open_bundle(engine_bundle)
    assert [(artifact.role, artifact.path) for artifact in bundle.manifest.artifacts] == [
        ("model", "model.onnx"),
        ("golden", "golden.npz"),
        ("engine", "model.plan"),
        ("timing_cache", "model.timing"),
    ]
    record = record_of(engine_bundle)
    assert record.fingerprint == Fingerprint("tensorrt", "11.4.0.106", "NVIDIA L4", ("8.9",), "13.2", "none")
    assert record.profile == RANGE
    types = {(entry["kind"], entry["type"]) for entry in record.contents["products"]}
    assert ("gemm", "fp16") in types and ("convolution", "fp16") in types and record.contents["unknown"] == []
    assert (engine_bundle / "model.plan").read_bytes().startswith(b"fake plan ")  # nothing before it


def test_an_engine_that_is_not_built_is_said(
    tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("debiexport.targets.tensorrt.builders.missing", list)
    lines = list[str]()
    result = export(tiny_bi_card, tmp_path / "out", engine=None, progress=lines.append)
    assert result.engines == ()
    assert result.notes[-1].startswith("no engine is built, since building an engine needs an NVIDIA GPU")
    assert f"note: {result.notes[-1]}" in lines
    assert export(tiny_bi_card, tmp_path / "wanted", engine="none").notes == result.notes[:-1]


def test_an_engine_for_this_machine_is_the_default(
    tiny_bi_card: Card, tmp_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, lines = tmp_path / "cache", list[str]()
    options: dict[str, Any] = {"batches": [RANGE], "timing_cache": cache, "progress": lines.append}
    result = export(tiny_bi_card, tmp_path / "out", engine=None, **options)
    assert cache.read_bytes() == (result.path / "model.timing").read_bytes() == b"cache of NVIDIA L4;kernel;"
    assert "running model.plan at batch 1 and 4" in lines
    (line,) = result.engines
    assert "TensorRT 11.4.0.106, NVIDIA L4 (8.9), batch 1:2:4" in line and "that multiply matrices: fp16" in line
    assert trt.cuda.held == 0

    assert not any("insists" in note for note in result.notes)

    (tmp_path / "folder").mkdir()
    options["timing_cache"] = tmp_path / "folder"
    with pytest.raises(UsageError, match=r"--timing-cache .*folder is a folder: give a file"):
        export(tiny_bi_card, tmp_path / "other", engine=None, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "folder", "out"]


def test_fused_operations_in_full_tensorrt(
    tiny_wide_card: Card, tmp_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT gets the calls without their definitions, and the engine is kept."""
    from debiexport.plugins import registration

    names = {"RegionAttention", "AgentAttention"}
    monkeypatch.setattr(registration, "register_plugins", lambda module, plugin: plugin.registered.update(names))
    result = export(tiny_wide_card, tmp_path / "out", plugins=True, engine="tensorrt")
    assert {node.op_type for node in trt.parsed.graph.node if node.domain} == names and not trt.parsed.functions
    assert {function.name for function in model_of(result.path).functions} == names
    assert record_of(result.path).profile == Profile(1, 1, 1)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ('{"Layers": [{"Name": "x", "LayerType": "gemm", "Outputs": [{"Name": "y", "Datatype": "Float"}]}]}', "fp32"),
        ('{"Layers": [{"Name": "x", "LayerType": "kgen"}]}', "no layer that multiplies matrices"),
    ],
)
def test_an_engine_of_another_precision(
    tiny_bi_card: Card, tmp_path: Path, trt: FakeTensorRT, one_line: OneLine, layers: str, words: str
) -> None:
    trt.layers = layers
    with pytest.raises(ParityError) as caught:
        export(tiny_bi_card, tmp_path / "out", engine="tensorrt")
    text = one_line(caught.value)
    assert "the engine is not proven to be fp16" in text and words in text and caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_computes_something_else(
    tiny_bi_card: Card, tmp_path: Path, trt: FakeTensorRT, one_line: OneLine
) -> None:
    trt.spoils = lambda batch: batch > 1
    with pytest.raises(UnverifiedExport) as caught:
        export(tiny_bi_card, tmp_path / "out", engine="tensorrt", batches=[RANGE])
    assert "model.plan, batch 4: parity is lost: PSNR" in one_line(caught.value) and caught.value.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.unverified"]
    left = (tmp_path / "out.unverified").rename(tmp_path / "renamed")
    assert is_unverified(open_bundle(left)), "the manifest says so too"


def test_a_build_on_the_gpu_that_fails_leaves_nothing(tiny_bi_card: Card, tmp_path: Path, trt: FakeTensorRT) -> None:
    trt.refuses = "build"
    with pytest.raises(DebiexportError, match="could not find any implementation"):
        export(tiny_bi_card, tmp_path / "out", engine="tensorrt", timing_cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- helpers


def _wide_bi_card() -> Card:
    """The tiny BiFormer with one block a stage and heads that the kernels take."""
    text = tiny_bi_toml().replace("C = 8\n", "C = 16\n").replace("head_width = 8", "head_width = 16")
    text = text.replace("blocks = 2", "blocks = 1")
    return parse_card(text.encode(), "tiny_bi.toml")


def _edit_typed(monkeypatch: pytest.MonkeyPatch, edit: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    """Spoil every typed model before it is written."""
    from debiexport.graph import typed as package

    whole = package.typed
    monkeypatch.setattr(package, "typed", lambda model, precision: edit(whole(model, precision)))


def _scaled(model: onnx.ModelProto, name: str, factor: float = 1.0, *, largest: float | None = None) -> onnx.ModelProto:
    """The model with an initializer multiplied, by a factor or so that its largest number is another, in place."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor)
    wide = array.astype(np.float64)
    changed = wide * (factor if largest is None else largest / np.abs(wide).max())
    tensor.CopyFrom(numpy_helper.from_array(changed.astype(array.dtype), name))
    return model


def _without_building(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[RtxBuild], RtxBuild] = lambda found: found
) -> None:
    """A builder that takes everything and writes a plan of a few bytes."""
    from debiexport.graph.attentions import attention_products

    def build(
        model: Path, plan: Path | None, capabilities: Any, *, with_plugins: bool, profile: Any, timeout_s: float
    ) -> RtxBuild:
        attentions: Iterator[tuple[str, str]] = attention_products(onnx.load(str(model)))
        names = tuple(name for pair in attentions for name in pair)
        if plan is not None:
            plan.write_bytes(b"plan")
        assert not with_plugins and timeout_s >= 600
        return change(RtxBuild("1.7", tuple(capabilities), profile, (), (), names, 0.1, 0.2, None, 0, 4, "0" * 64))

    monkeypatch.setattr(rtx, "build", build)
