"""`export_coreml`: packages of every lowering, precision, input and number of batches, and what is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debiexport.bundle import GOLDEN, PACKAGE, open_bundle, sha256_of
from debiexport.cards import Card
from debiexport.checking import check
from debiexport.errors import BundleError, MissingDependencyError, OutputError, UsageError
from debiexport.export import UnverifiedExport, export_coreml
from debiexport.golden import read_golden
from debiexport.manifest import COREML, MANIFEST
from debiexport.placement.report import PlacementReport
from debiexport.prediction import predict
from debiexport.runtimes import coreml as runtime_module
from debiexport.runtimes.coreml import EvaluatedPackage
from debiexport.signature import IMAGES

pytest.importorskip("coremltools")

from coreml_edits import MODEL, WEIGHTS, block_of, read_spec

OneLine = Callable[[BaseException], str]


def _export(card: Card, folder: Path, **options: Any) -> Path:
    return export_coreml(card, image_size=options.pop("image_size", 64), output=folder, **options).path


def _operations(bundle: Path) -> dict[str, int]:
    placement = open_bundle(bundle).manifest.placement
    assert placement is not None
    return PlacementReport.from_dict(placement).operations


def test_the_bundle(coreml_bundle: Path) -> None:
    bundle = open_bundle(coreml_bundle)
    manifest = bundle.manifest
    assert (manifest.target, manifest.lowering.name) == (COREML, "ane")
    assert [(a.role, a.path.split("/")[-1]) for a in manifest.artifacts] == [
        ("model", "model.mlmodel"),
        ("package", "Manifest.json"),
        ("weights", "weight.bin"),
        ("golden", "golden.npz"),
    ]
    (model,) = bundle.models
    assert (model.batch, model.precision, model.function, model.opset) == (1, "fp16", None, None)
    assert [(t.name, t.dtype, t.shape) for t in (*model.inputs, *model.outputs)] == [
        (IMAGES, "float16", (1, 3, 64, 64)),
        ("logits", "float16", (1, 6)),
    ]
    assert manifest.parity["ok"] and manifest.parity["min_psnr_db"] == 55


def test_nothing_keeps_it_off_the_neural_engine(coreml_bundle: Path) -> None:
    placement = PlacementReport.from_dict(open_bundle(coreml_bundle).manifest.placement or {})
    assert (placement.never_count, placement.integer_tensors, placement.over_rank_4, placement.float32_tensors) == (
        0,
    ) * 4
    forbidden = {
        "topk",
        "gather",
        "gather_along_axis",
        "resample",
        "one_hot",
        "scatter",
        "tile",
        "reverse",
        "batch_norm",
    }
    assert not forbidden & set(_operations(coreml_bundle))


def test_norms_are_one_operation_each(coreml_bundle: Path, tiny_card: Card) -> None:
    blocks = sum(stage.blocks for stage in tiny_card.stages)
    deformable = sum(stage.blocks * stage.attention.count("dbra") for stage in tiny_card.stages)
    operations = _operations(coreml_bundle)
    assert operations["layer_norm"] == 4 * blocks + 3 * deformable
    assert "rsqrt" not in operations


def test_attention_is_einsums_with_softmax_over_channels(coreml_bundle: Path) -> None:
    block = block_of(read_spec(coreml_bundle))
    constants = {op.outputs[0].name: op for op in block.operations if op.type == "const"}
    softmax = [op for op in block.operations if op.type == "softmax"]
    axes = {
        constants[op.inputs["axis"].arguments[0].name].attributes["val"].immediateValue.tensor.ints.values[0]
        for op in softmax
    }
    assert axes == {1}
    assert sum(op.type == "einsum" for op in block.operations) == 2 * len(softmax)


def test_the_same_export_gives_the_same_bytes(tiny_bi_card: Card, tmp_path: Path) -> None:
    once, again = (_export(tiny_bi_card, tmp_path / name) for name in ("once", "again"))
    files = [path for path in sorted(once.rglob("*")) if path.is_file()]
    assert len(files) == 5
    for path in files:
        assert path.read_bytes() == (again / path.relative_to(once)).read_bytes(), path


def test_the_day_is_not_in_the_package(coreml_bundle: Path) -> None:
    metadata = read_spec(coreml_bundle).description.metadata
    assert metadata.author == "debiexport"
    assert {key.split(".")[0] for key in metadata.userDefined} == {"debiexport"}
    assert json.loads(metadata.userDefined["debiexport.lowering"])["name"] == "ane"


def test_stable_names_are_kept(coreml_bundle: Path, tiny_card: Card) -> None:
    bundle = open_bundle(coreml_bundle)
    images = read_golden(bundle.file(GOLDEN), bundle.geometry).images[:1]
    names = ["stage1.block1.attn1.affinity", "stage1.block1.attn1.routes", "stage2.block1.mlp2", "stage4.block1.attn2"]
    tapped = bundle.runtime().run({IMAGES: images}, names)
    assert set(names) | {"logits"} == set(tapped)
    with pytest.raises(BundleError, match="stage9"):
        bundle.runtime().run({IMAGES: images}, ["stage9.block1.mlp1"])


@pytest.mark.parametrize("lowering", ["gather", "plain"])
def test_other_lowerings(tiny_card: Card, tmp_path: Path, lowering: str) -> None:
    bundle = _export(tiny_card, tmp_path / "out", lowering=lowering)
    assert open_bundle(bundle).manifest.lowering.name == lowering
    operations = _operations(bundle)
    # The plain network looks for the best regions also where it takes them all.
    assert operations["topk"] == (8 if lowering == "gather" else 10)
    assert ("resample" in operations) is (lowering == "plain")
    assert check(bundle).parity.ok


def test_float32_is_the_network_to_rounding(tiny_card: Card, tmp_path: Path) -> None:
    result = export_coreml(tiny_card, image_size=(64, 96), precision="fp32", output=tmp_path / "out")
    assert min(output.psnr_db for output in result.parity.outputs) > 120
    assert all(block.near_ties == block.wrong == 0 for block in result.parity.blocks)


@pytest.mark.parametrize("name", ["tiny_stl_card", "tiny_seg_card"])
def test_other_networks(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    card = request.getfixturevalue(name)
    bundle = open_bundle(_export(card, tmp_path / "out", image_size=(70, 45)))
    (model,) = bundle.models
    assert [t.name for t in model.outputs] == list(bundle.geometry.output_shapes)
    assert PlacementReport.from_dict(bundle.manifest.placement or {}).never_count == 0


def test_several_batches_share_their_weights(tiny_bi_card: Card, tmp_path: Path) -> None:
    path = _export(tiny_bi_card, tmp_path / "out", batches=(1, 3), target="iOS18")
    bundle = open_bundle(path)
    assert [(m.batch, m.function) for m in bundle.models] == [(1, "batch1"), (3, "batch3")]
    one_alone = _export(tiny_bi_card, tmp_path / "one")
    assert (path / WEIGHTS).stat().st_size < 1.1 * (one_alone / WEIGHTS).stat().st_size
    assert [output["batch"] for output in bundle.manifest.parity["outputs"]] == [1, 3]
    images = read_golden(bundle.file(GOLDEN), bundle.geometry).images
    one, three = (runtime.run({IMAGES: images[: runtime.batch]}) for runtime in bundle.runtimes())
    np.testing.assert_allclose(one["logits"][0], three["logits"][0], atol=2e-2 * np.abs(one["logits"]).max())
    assert check(path).parity.ok


def test_an_image_with_labels_makes_a_classifier(tiny_bi_card: Card, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"name {i}\n" for i in range(6)))
    path = _export(tiny_bi_card, tmp_path / "out", input="image", labels=labels)
    spec = read_spec(path)
    (image,) = spec.description.input
    assert (image.name, image.type.imageType.width, image.type.imageType.height) == (IMAGES, 64, 64)
    assert spec.description.predictedFeatureName == "classLabel"
    assert [output.name for output in spec.description.output] == ["classLabel", "classLabel_probs"]
    bundle = open_bundle(path)
    golden = read_golden(bundle.file(GOLDEN), bundle.geometry, bundle.manifest.input)
    assert golden.images.dtype == np.uint8
    from debiexport.evaluate.evaluator import Evaluator
    from debiexport.evaluate.package import open_package
    from debiexport.evaluate.program import read_program

    given = Evaluator(read_program(open_package(path / PACKAGE))).run({IMAGES: golden.images[:1]})
    logits = bundle.runtime().run({IMAGES: golden.images[:1]})["logits"][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert given["classLabel"] == f"name {logits.argmax()}"
    for i, share in enumerate(shares):
        assert given["classLabel_probs"][f"name {i}"] == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize(
    ("precision", "share"), [("int8", 0.8), ("palette6", 0.75), pytest.param("palette4", 0.7, marks=pytest.mark.matrix)]
)
def test_compressed_weights(tiny_card: Card, coreml_bundle: Path, tmp_path: Path, precision: str, share: float) -> None:
    result = export_coreml(tiny_card, image_size=64, precision=precision, output=tmp_path / "out")
    # Small tensors stay as they are.
    assert (result.path / WEIGHTS).stat().st_size < share * (coreml_bundle / WEIGHTS).stat().st_size
    assert result.parity.precision == precision
    block = block_of(read_spec(result.path))
    compressed = {op.outputs[0].name for op in block.operations if op.type.startswith("constexpr")}
    readers = {
        op.type
        for op in block.operations
        if any(argument.name in compressed for given in op.inputs.values() for argument in given.arguments)
    }
    assert "conv" in readers and readers <= {"conv", "linear", "matmul"}, "positions keep their precision"
    assert result.parity.ok
    assert check(result.path).parity.ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp8"}, "--precision is 'fp8': give one of fp16, fp32"),
        ({"lowering": "cpu"}, "--lowering is 'cpu': give one of ane, gather, plain"),
        ({"target": "iOS15"}, "--target is 'iOS15'"),
        ({"batches": (1, 4)}, "several batches in one package need iOS18"),
        ({"batches": ()}, "--batch"),
        ({"batches": (1, 1), "target": "iOS18"}, "different numbers"),
        ({"batches": (0,)}, "--batch is 0"),
        ({"input": "uint8"}, "--input is 'uint8': allowed are normalized, image"),
        ({"input": "image", "batches": (2,)}, "one image a run"),
        ({"top_k": (5, 1, 1, 1)}, "--top-k"),
    ],
)
def test_refusals(tiny_card: Card, tmp_path: Path, one_line: OneLine, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        _export(tiny_card, tmp_path / "out", **options)
    assert words in one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_many_regions_are_sent_to_gather(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        export_coreml("debi_t", regions=32, output=tmp_path / "out")
    assert "--lowering gather" in one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists(tiny_card: Card, coreml_bundle: Path, one_line: OneLine) -> None:
    before = sha256_of(coreml_bundle / MANIFEST)
    with pytest.raises(OutputError) as caught:
        _export(tiny_card, coreml_bundle)
    assert "--force" in one_line(caught.value)
    assert sha256_of(coreml_bundle / MANIFEST) == before


def test_coremltools_missing(
    tiny_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    import debiexport.extras as extras

    whole = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "coremltools" else whole(name))
    with pytest.raises(MissingDependencyError) as caught:
        _export(tiny_card, tmp_path / "out")
    assert "coremltools" in one_line(caught.value) and "[coreml]" in str(caught.value)


def test_numpy_too_new(tiny_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr(np, "__version__", "2.4.1")
    with pytest.raises(MissingDependencyError) as caught:
        _export(tiny_card, tmp_path / "out")
    assert "pip install 'numpy<2.4'" in one_line(caught.value)


def test_a_lost_parity_leaves_a_marked_folder(
    tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from debiexport.static import fold

    whole = fold.fold_residual
    monkeypatch.setattr(fold, "fold_residual", lambda weight: whole(weight) * 1.05)
    with pytest.raises(UnverifiedExport) as caught:
        _export(tiny_bi_card, tmp_path / "out")
    assert caught.value.exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.unverified"]


def test_a_failure_leaves_nothing(tiny_bi_card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from debiexport.targets.coreml import package

    def full(*args: Any, **others: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package, "_write_manifest", full)
    with pytest.raises(OutputError):
        _export(tiny_bi_card, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", [MODEL, WEIGHTS, Path(PACKAGE) / "Manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "gone", "link"])
def test_damaged_packages(coreml_bundle: Path, one_line: OneLine, file: Path, damage: str) -> None:
    path = coreml_bundle / file
    data = path.read_bytes()
    if damage == "altered":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
        if damage == "link":
            path.symlink_to("/etc/hostname")
    with pytest.raises(BundleError) as caught:
        check(coreml_bundle)
    assert "export again" in one_line(caught.value)


def test_a_file_that_nobody_listed(coreml_bundle: Path, one_line: OneLine) -> None:
    (coreml_bundle / PACKAGE / "extra").write_text("x")
    with pytest.raises(BundleError) as caught:
        check(coreml_bundle)
    assert "extra is not in the manifest" in one_line(caught.value)


def test_a_folder_that_leads_out_is_refused(coreml_bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    (coreml_bundle / PACKAGE).rename(moved)
    (coreml_bundle / PACKAGE).symlink_to(moved)
    with pytest.raises(BundleError, match="lacks"):
        check(coreml_bundle)


def test_the_manifest_says_what_the_package_takes(coreml_bundle: Path) -> None:
    bundle = open_bundle(coreml_bundle)
    (model,) = bundle.models
    wrong = replace(model, inputs=(replace(model.inputs[0], shape=(2, 3, 64, 64)),))
    with pytest.raises(BundleError, match="the manifest says"):
        EvaluatedPackage(coreml_bundle / PACKAGE, bundle.geometry, wrong)


def test_predict_takes_a_package(coreml_bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    image = tmp_path / "x.png"
    Image.new("RGB", (80, 70), (10, 200, 30)).save(image)
    (prediction,) = predict(coreml_bundle, [image]).predictions
    assert len(prediction.classes) == 5


def test_files_may_be_read_by_others(coreml_bundle: Path) -> None:
    modes = {stat.S_IMODE((coreml_bundle / file).stat().st_mode) for file in (MODEL, WEIGHTS, Path(MANIFEST))}
    assert len(modes) == 1


def test_evaluation_needs_its_packages(monkeypatch: pytest.MonkeyPatch, coreml_bundle: Path, one_line: OneLine) -> None:
    monkeypatch.setattr(runtime_module, "missing", lambda packages: ["coremltools"])
    with pytest.raises(MissingDependencyError) as caught:
        open_bundle(coreml_bundle).runtime()
    assert "[coreml]" in one_line(caught.value)
