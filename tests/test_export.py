"""What an export writes: the same bytes each time, the network that was asked for, and nothing that is not proven."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from debiexport import __version__, export, parity
from debiexport.bundle import is_unverified, open_bundle, sha256_of
from debiexport.cards import Card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import InputError, OutputError, UsageError
from debiexport.export import ExportResult, UnverifiedExport, default_output, export_onnx
from debiexport.geometry import Geometry
from debiexport.manifest import MANIFEST
from debiexport.prediction import predict
from debiexport.preprocess import preprocess
from debiexport.runtimes.ort import OrtRuntime
from debiexport.runtimes.session import RECOMMENDED, SessionOptions
from debiexport.static import fold

OneLine = Callable[[BaseException], str]
FILES = ["golden.npz", "manifest.json", "model.onnx"]


@pytest.fixture(scope="module")
def micro(tiny_bi_card: Card) -> Card:
    """One block a stage: the cheapest network that routes."""
    return replace(tiny_bi_card, name="micro", stages=tuple(replace(s, blocks=1) for s in tiny_bi_card.stages))


@pytest.fixture(scope="module")
def weights(micro: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the micro network with 4 classes."""
    path = tmp_path_factory.mktemp("checkpoints") / "fine_tuned.pth"
    torch.save({"model": random_checkpoint(replace(micro, num_classes=4), seed=7).state}, path)
    return path


@pytest.fixture(scope="module")
def tuned(micro: Card, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """An export with every option."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "labels.txt").write_text("ant\nbee\ncät\ndog\n", encoding="utf-8")
    lines: list[str] = []
    result = export_onnx(
        micro,
        weights,
        image_size=(64, 96),
        batch=2,
        opset=18,
        regions=3,
        bra_top_k=(2, 5, 9),
        num_classes=4,
        labels=folder / "labels.txt",
        output=folder / "bundle",
        progress=lines.append,
    )
    assert not any("WARNING" in line for line in lines)
    assert any(sha256_of(weights)[:12] in line for line in lines)
    return result


def model_of(folder: Path) -> onnx.ModelProto:
    return onnx.load(str(folder / "model.onnx"))


def io(values: object) -> list[tuple[str, int, list[int | str]]]:
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values  # type: ignore[attr-defined]
    ]


# ------------------------------------------------------------------------------------- the manifest


def test_result(tuned: ExportResult, micro: Card) -> None:
    assert sorted(path.name for path in tuned.path.iterdir()) == FILES
    bundle = open_bundle(tuned.path)
    assert bundle.manifest == tuned.manifest
    assert tuned.parity.ok
    assert tuned.manifest.parity == json.loads(json.dumps(tuned.parity.to_dict()))
    assert str(tuned.path) in str(tuned)
    assert tuned.to_dict()["manifest"] == json.loads((tuned.path / MANIFEST).read_text())
    assert not is_unverified(bundle)


def test_manifest_says_what_was_asked_for(tuned: ExportResult, micro: Card, weights: Path) -> None:
    manifest = tuned.manifest
    assert manifest.target == "onnx"
    assert (manifest.card.name, manifest.card.regions, manifest.card.num_classes) == ("micro", 3, 4)
    assert manifest.card.bra_top_k == (2, 5, 9)
    assert manifest.image_size == (64, 96)
    assert manifest.labels == ("ant", "bee", "cät", "dog")
    assert (manifest.checkpoint, manifest.checkpoint_sha256) == ("fine_tuned.pth", sha256_of(weights))
    model = manifest.artifact("model")
    assert (model.path, model.batch, model.opset, model.precision) == ("model.onnx", 2, 18, "float32")
    assert model.sha256 == sha256_of(tuned.path / "model.onnx")
    assert model.inputs[0].shape == (2, 3, 64, 96)
    assert model.outputs[0].shape == (2, 4)
    assert manifest.versions["debiexport"] == __version__
    assert manifest.versions["torch"] == torch.__version__
    assert manifest.versions["onnx"] == onnx.__version__
    assert manifest.lowering.name == "cpu"


def test_the_recommended_session_options_are_written_and_proven(
    micro: Card, tuned: ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuned.manifest.session == RECOMMENDED
    assert json.loads((tuned.path / MANIFEST).read_text())["session_options"] == RECOMMENDED.to_dict()
    other = SessionOptions(graph_optimization_level="extended", entries={"session.intra_op.allow_spinning": "0"})
    proven: list[dict[str, object]] = []
    whole = parity.judge

    def judge(runtime: OrtRuntime, *others: Any) -> Any:
        proven.append(runtime.options)
        return whole(runtime, *others)

    monkeypatch.setattr(parity, "judge", judge)
    monkeypatch.setattr(export.onnx, "RECOMMENDED", other)
    result = export_onnx(micro, image_size=64, output=tmp_path / "out")
    assert open_bundle(result.path).manifest.session == other
    ((graph, entries),) = [(options["graph_optimization_level"], options["entries"]) for options in proven]
    assert (graph, entries) == (other.graph_optimization_level, other.entries)


def test_options_are_in_the_routes(tuned: ExportResult) -> None:
    assert [(b.regions, b.top_k, b.chooses) for b in tuned.parity.blocks] == [(9, 2, True), (9, 5, True), (9, 9, False)]


def test_random_weights(dynamic_bundle: Path) -> None:
    manifest = open_bundle(dynamic_bundle).manifest
    assert (manifest.checkpoint, manifest.checkpoint_sha256) == ("random, seed 0", None)
    assert manifest.labels is None


def test_warning_of_random_weights(micro: Card, tmp_path: Path) -> None:
    lines: list[str] = []
    labels = tmp_path / "labels"
    labels.write_text("one\n")
    with pytest.raises(InputError):  # stopped right after the weights
        export_onnx(micro, labels=labels, image_size=64, output=tmp_path / "out", progress=lines.append)
    (warning,) = [line for line in lines if line.startswith("WARNING")]
    assert "random, seed 0" in warning
    assert list(tmp_path.iterdir()) == [labels]


def test_nothing_of_the_machine_is_written(tuned: ExportResult, dynamic_bundle: Path, weights: Path) -> None:
    import debiexport

    secrets = {
        str(tuned.path),
        str(weights.parent),
        str(Path(debiexport.__file__).parent),
        str(Path.home()),
        str(Path.cwd()),
    }
    secrets |= {str(dynamic_bundle.parent.parent), sys.prefix, "site-packages", "Traceback", ".py"}
    for folder in (tuned.path, dynamic_bundle):
        for name in FILES:
            content = (folder / name).read_bytes()
            for secret in secrets - {"/"}:
                assert secret.encode() not in content, (name, secret)
        text = (folder / MANIFEST).read_text()
        assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text)


def test_default_output(micro: Card) -> None:
    assert default_output(micro, (64, 96), 2) == Path("artifacts/micro-onnx-64x96-b2")
    assert default_output(micro, (64, 64), None) == Path("artifacts/micro-onnx-64x64-bdynamic")
    assert default_output(micro, (64, 64), 1, "uint8") == Path("artifacts/micro-onnx-64x64-b1-uint8")


# ---------------------------------------------------------------------------------- the same bytes

_PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from debiexport.cards import load_card
from debiexport.export import export_onnx
export_onnx(load_card(sys.argv[1]), image_size=64, output=sys.argv[2])
"""


def test_two_processes_write_the_same_bytes(micro: Card, tmp_path: Path) -> None:
    card = tmp_path / "micro.toml"
    card.write_text(_toml(micro))
    running = []
    for i, name in enumerate(("a", "bb/c")):
        environment = os.environ | {"PYTHONHASHSEED": str(i + 1), "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-c", _PROGRAM, str(card), str(tmp_path / name)]
        running.append(subprocess.Popen(program, env=environment, cwd=tmp_path))
    assert [process.wait() for process in running] == [0, 0]
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "bb" / "c" / name).read_bytes(), name


def _toml(card: Card) -> str:
    """A card as a file; JSON's strings, numbers and lists are TOML's too."""
    data = card.to_dict()
    lines = [f"{key} = {json.dumps(data[key])}" for key in ("name", "family", "S", "num_classes")]
    for stage in data["stages"]:
        lines += ["[[stages]]", *(f"{k} = {json.dumps(v)}" for k, v in stage.items())]
    for table in ("preprocessing", "provenance"):
        lines += [f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in data[table].items())]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("opset", [19, 20])
def test_opsets(micro: Card, tmp_path: Path, opset: int) -> None:
    result = export_onnx(micro, image_size=64, opset=opset, output=tmp_path / "out")
    model = model_of(result.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert result.manifest.artifact("model").opset == opset


def test_opset_18_and_a_static_batch(tuned: ExportResult) -> None:
    model = model_of(tuned.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert io(model.graph.input) == [("images", onnx.TensorProto.FLOAT, [2, 3, 64, 96])]
    assert io(model.graph.output) == [("logits", onnx.TensorProto.FLOAT, [2, 4])]


def test_dynamic_batch(dynamic_bundle: Path) -> None:
    model = model_of(dynamic_bundle)
    assert io(model.graph.input) == [("images", onnx.TensorProto.FLOAT, ["batch", 3, 64, 64])]
    assert io(model.graph.output) == [("logits", onnx.TensorProto.FLOAT, ["batch", 6])]
    runtime = open_bundle(dynamic_bundle).runtime(1)
    images = np.random.default_rng(0).standard_normal((7, 3, 64, 64), dtype=np.float32)
    together = runtime.run({"images": images})["logits"]
    for i in range(7):
        single = runtime.run({"images": images[i : i + 1]})["logits"]
        np.testing.assert_allclose(single[0], together[i], rtol=1e-4, atol=1e-5)


def test_backbone(seg_bundle: Path) -> None:
    model, bundle = model_of(seg_bundle), open_bundle(seg_bundle)
    shapes = {
        "feature1": [2, 8, 16, 24],
        "feature2": [2, 16, 8, 12],
        "feature3": [2, 16, 4, 6],
        "feature4": [2, 32, 2, 3],
    }
    assert io(model.graph.output) == [(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    artifact = bundle.manifest.artifact("model")
    assert {tensor.name: list(tensor.shape) for tensor in artifact.outputs} == shapes
    assert bundle.manifest.image_size == (64, 96), "the card's own"
    assert bundle.manifest.card.num_classes is None
    assert {output["output"] for output in bundle.manifest.parity["outputs"]} <= set(shapes)
    names = [node.name for node in model.graph.node]
    assert {f"{name}.norm/LayerNormalization" for name in shapes} <= set(names)
    assert [name for name in names if not _PLACE.fullmatch(name)] == []


def test_bytes(uint8_bundle: Path, dynamic_bundle: Path) -> None:
    """The network behind the input is the same."""
    model, manifest = model_of(uint8_bundle), open_bundle(uint8_bundle).manifest
    assert io(model.graph.input) == [("images", onnx.TensorProto.UINT8, ["batch", 64, 64, 3])]
    assert manifest.input == "uint8" and json.loads((uint8_bundle / MANIFEST).read_text())["input"] == "uint8"
    assert (manifest.artifact("model").inputs[0].dtype, manifest.artifact("model").inputs[0].shape) == (
        "uint8",
        (None, 64, 64, 3),
    )
    names = [node.name for node in model.graph.node]
    pixel_names = ["pixels/Cast", "pixels/Mul", "pixels/Add", "pixels/Transpose"]
    assert [name for name in names if name.startswith("pixels/")] == pixel_names
    assert sorted(set(names) - set(pixel_names)) == sorted(node.name for node in model_of(dynamic_bundle).graph.node)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    mean, std = (np.float32(v) for v in (manifest.card.preprocessing.mean, manifest.card.preprocessing.std))
    images = np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2), np.float32)
    logits = open_bundle(uint8_bundle).runtime(1).run({"images": pixels})["logits"]
    wanted = open_bundle(dynamic_bundle).runtime(1).run({"images": images})["logits"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)


def test_static_batch(static_bundle: Path) -> None:
    assert io(model_of(static_bundle).graph.input)[0][2] == [3, 3, 64, 64]
    parity = open_bundle(static_bundle).manifest.parity
    assert [output["batch"] for output in parity["outputs"]] == [3]


def test_every_batch_is_proven(dynamic_bundle: Path) -> None:
    parity = open_bundle(dynamic_bundle).manifest.parity
    assert [output["batch"] for output in parity["outputs"]] == [1, 2, 5]


_PLACE = re.compile(
    r"(network|head|feature\d(\.norm)?|pixels|stem(\.conv\d)?|stage\d(\.downsample|\.block\d+(\.\w+)*)?)/[A-Z]\w*"
)


def test_names_are_places(dynamic_bundle: Path, tuned: ExportResult) -> None:
    for folder in (dynamic_bundle, tuned.path):
        nodes = model_of(folder).graph.node
        assert [node.name for node in nodes if not _PLACE.fullmatch(node.name)] == []
        names = [node.name for node in nodes]
        assert len(set(names)) == len(names)


def test_routes_and_affinities_can_be_looked_at(dynamic_bundle: Path, tiny_card: Card) -> None:
    graph = model_of(dynamic_bundle).graph
    produced = {name for node in graph.node for name in node.output}
    described = {value.name: io([value])[0] for value in graph.value_info}
    choosing = [a for a in Geometry.of(tiny_card, (64, 64)).routed if not a.routes_everywhere]
    assert choosing
    for a in choosing:
        assert {a.site.affinity, a.site.routes} <= produced
        assert described[a.site.affinity][1:] == (onnx.TensorProto.FLOAT, ["batch", 4, 4])
        assert described[a.site.routes][1:] == (onnx.TensorProto.INT64, ["batch", 4, a.top_k])


def test_weights_have_the_names_of_their_layers(tuned: ExportResult) -> None:
    names = {tensor.name for tensor in model_of(tuned.path).graph.initializer}
    assert {"head.bias", "stem.conv1.weight", "stage2.downsample.weight"} <= names


def test_metadata(tuned: ExportResult, weights: Path) -> None:
    model = model_of(tuned.path)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(found.pop("debiexport.card")) == tuned.manifest.card.to_dict()
    assert json.loads(found.pop("debiexport.lowering")) == tuned.manifest.lowering.to_dict()
    assert found == {
        "debiexport.checkpoint": "fine_tuned.pth",
        "debiexport.checkpoint_sha256": sha256_of(weights),
        "debiexport.image_size": "64x96",
        "debiexport.input": "normalized",
        "debiexport.version": __version__,
    }
    assert (model.producer_name, model.producer_version) == ("debiexport", __version__)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not model.functions
    onnx.checker.check_model(model, full_check=True)


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opset": 17}, "--opset"),
        ({"opset": 21}, "--opset"),
        ({"batch": 0}, "--batch"),
        ({"batch": 1025}, "--batch"),
        ({"image_size": 16}, "--image-size"),
        ({"image_size": (64, 5000)}, "--image-size"),
        ({"lowering": "magic"}, "magic"),
        ({"input": "float16"}, "--input"),
        ({"regions": 1}, "--regions"),
        ({"bra_top_k": (1, 2)}, "--bra-top-k"),
        ({"bra_top_k": (1, 2, 5)}, "--bra-top-k"),
        ({"top_k": (1,)}, "--top-k"),
        ({"num_classes": 0}, "--num-classes"),
    ],
)
def test_options_are_refused_early(
    micro: Card, tmp_path: Path, one_line: OneLine, options: dict[str, object], words: str
) -> None:
    lines: list[str] = []
    with pytest.raises(UsageError) as caught:
        export_onnx(micro, output=tmp_path / "a" / "out", progress=lines.append, **options)  # type: ignore[arg-type]
    assert words in one_line(caught.value)
    assert lines == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["a\nb\n", "a\nb\nc\nd\ne\nf\ng\n", "a\nb\n\nd\ne\nf\n", b"\xff\xfe"])
def test_labels_that_do_not_fit(micro: Card, tmp_path: Path, one_line: OneLine, text: str | bytes) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        export_onnx(micro, labels=path, output=tmp_path / "out")
    assert "labels.txt" in one_line(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["labels.txt"]


@pytest.mark.parametrize(("options", "words"), [({"num_classes": 6}, "--num-classes"), ({"labels": "x"}, "--labels")])
def test_classes_of_a_backbone_are_refused(
    tiny_seg_card: Card, tmp_path: Path, one_line: OneLine, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match="features and no classes") as caught:
        export_onnx(tiny_seg_card, output=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert words in one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_classes_that_contradict_the_checkpoint(micro: Card, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="head of 4 classes"):
        export_onnx(micro, weights, num_classes=5, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_destination(micro: Card, dynamic_bundle: Path) -> None:
    before = {name: (dynamic_bundle / name).read_bytes() for name in FILES}
    with pytest.raises(OutputError, match="--force"):
        export_onnx(micro, image_size=64, output=dynamic_bundle)
    assert {name: (dynamic_bundle / name).read_bytes() for name in FILES} == before
    result = export_onnx(micro, image_size=64, output=dynamic_bundle, force=True)
    assert result.path == dynamic_bundle
    assert open_bundle(dynamic_bundle).manifest.card.name == "micro"
    assert [path.name for path in dynamic_bundle.parent.iterdir()] == [dynamic_bundle.name]


def test_write_failure(micro: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        export_onnx(micro, image_size=64, output=tmp_path / "a" / "out")
    one_line(caught.value)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- lost parity


def test_lost_parity(micro: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr(fold, "fold_residual", lambda weight: weight)  # forgets the residual
    lines: list[str] = []
    with pytest.raises(UnverifiedExport) as caught:
        export_onnx(micro, image_size=64, output=tmp_path / "out", progress=lines.append)
    assert caught.value.exit_code == 3
    message = one_line(caught.value)
    assert "parity is lost" in message
    assert "out.unverified" in message
    assert not any(word in line for line in (*lines, message) for word in ("holds", "succe"))
    assert [path.name for path in tmp_path.iterdir()] == ["out.unverified"]
    left = open_bundle(caught.value.path)
    assert left.manifest.parity["ok"] is False
    assert left.manifest.parity["failures"] == caught.value.parity.failures
    assert is_unverified(left)
    image = tmp_path / "image.png"
    _noise_image(image)
    result = predict(left, [image])
    assert "lost parity" in result.notes[-1]


def test_lost_parity_by_one_weight(micro: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error far below what a change of the predicted class would show."""
    whole = fold.fold_affine

    def slightly_off(weight: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        folded, bias = whole(weight, *others)
        return folded * 1.0003, bias

    monkeypatch.setattr(fold, "fold_affine", slightly_off)
    with pytest.raises(UnverifiedExport):
        export_onnx(micro, image_size=64, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _noise_image(path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_preprocessing_is_the_cards(tuned: ExportResult, micro: Card, tmp_path: Path) -> None:
    """From an image file to the reference's probabilities, without the bundle's own code in between."""
    from PIL import Image

    from debiexport.loading import load_model

    _noise_image(tmp_path / "image.png")
    card = tuned.manifest.card
    torch.save(random_checkpoint(card, seed=7).state, tmp_path / "weights.pth")
    network = load_model(card, tmp_path / "weights.pth", image_size=(64, 96))
    with Image.open(tmp_path / "image.png") as image, torch.no_grad():
        batch = torch.from_numpy(preprocess(image.convert("RGB"), card.preprocessing, (64, 96)))[None]
        expected = network(batch).double().softmax(-1)[0].numpy()
    (prediction,) = predict(tuned.path, [tmp_path / "image.png"], top=4).predictions
    found = {score.index: score.probability for score in prediction.classes}
    np.testing.assert_allclose([found[i] for i in range(4)], expected, rtol=1e-3)
