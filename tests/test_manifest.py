"""Manifests are read as they were written, and everything else is refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from debiexport.cards import Card, load_card
from debiexport.errors import BundleError
from debiexport.lowerings import LOWERINGS
from debiexport.manifest import FORMAT_VERSION, MANIFEST, Artifact, Manifest, read_manifest
from debiexport.preprocess import preprocess
from debiexport.runtimes.session import SessionOptions
from debiexport.signature import TensorSpec

OneLine = Callable[[BaseException], str]


@pytest.fixture
def manifest(tiny_card: Card) -> Manifest:
    model = Artifact(
        "model",
        "model.onnx",
        "0" * 64,
        123,
        batch=None,
        precision="float32",
        opset=20,
        inputs=(TensorSpec("images", "float32", (None, 3, 64, 96)),),
        outputs=(TensorSpec("logits", "float32", (None, 6)),),
    )
    return Manifest(
        target="onnx",
        card=tiny_card,
        checkpoint="größe.pth",
        checkpoint_sha256="1" * 64,
        image_size=(64, 96),
        artifacts=(model, Artifact("golden", "golden.npz", "2" * 64, 45)),
        lowering=LOWERINGS["gather"],
        versions={"onnx": "1", "numpy": "2"},
        labels=("a", "b", "c", "d", "e", "f"),
        parity={"ok": True, "noise_floor": 1.5e-7},
    )


@pytest.fixture
def data(manifest: Manifest) -> dict[str, Any]:
    return json.loads(json.dumps(manifest.to_dict()))  # type: ignore[no-any-return]


def refusal(folder: Path, one_line: OneLine) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(folder)
    assert caught.value.exit_code == 4
    return one_line(caught.value)


def put(folder: Path, data: Any) -> None:
    (folder / MANIFEST).write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")


def test_round_trip(manifest: Manifest, tmp_path: Path) -> None:
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    first = (tmp_path / MANIFEST).read_bytes()
    read_manifest(tmp_path).write(tmp_path)
    assert (tmp_path / MANIFEST).read_bytes() == first
    assert "größe.pth" in first.decode()


def test_round_trip_without_labels_and_checkpoint(data: dict[str, Any], tmp_path: Path) -> None:
    data["labels"] = data["checkpoint"]["sha256"] = None
    put(tmp_path, data)
    read = read_manifest(tmp_path)
    assert read.labels is None
    assert read.checkpoint_sha256 is None
    assert read.to_dict() == data


def test_round_trip_of_a_dense_backbone(tiny_seg_card: Card, manifest: Manifest, tmp_path: Path) -> None:
    dense = replace(manifest, card=tiny_seg_card, labels=None, input="uint8")
    dense.write(tmp_path)
    assert read_manifest(tmp_path) == dense
    replace(dense, labels=("a",)).write(tmp_path)
    with pytest.raises(BundleError, match="1 labels for no classes"):
        read_manifest(tmp_path)


def test_static_batch(data: dict[str, Any], tmp_path: Path) -> None:
    data["artifacts"][0]["batch"] = 3
    put(tmp_path, data)
    assert read_manifest(tmp_path).artifact("model").batch == 3


def test_dynamic_batch(data: dict[str, Any], tmp_path: Path) -> None:
    assert data["artifacts"][0]["batch"] == "dynamic"
    put(tmp_path, data)
    assert read_manifest(tmp_path).artifact("model").batch is None


ENGINE = {"model": "model.onnx", "fingerprint": {"version": "11.4.0.106"}, "profile": {"min": 1}, "contents": {}}


def test_round_trip_of_engines(manifest: Manifest, tmp_path: Path) -> None:
    """What an engine is bound to travels as it is; `EngineRecord` reads it where it is used."""
    engine = Artifact("engine", "model.plan", "3" * 64, 6, precision="fp16", engine=ENGINE)
    cache = Artifact("timing_cache", "model.timing", "4" * 64, 7)
    bundle = replace(manifest, target="tensorrt", artifacts=(*manifest.artifacts, engine, cache))
    bundle.write(tmp_path)
    assert read_manifest(tmp_path) == bundle
    *_, entry, last = json.loads((tmp_path / MANIFEST).read_text())["artifacts"]
    assert entry == {
        "role": "engine",
        "path": "model.plan",
        "sha256": "3" * 64,
        "bytes": 6,
        "precision": "fp16",
        "engine": ENGINE,
    }
    assert last.keys() == {"role", "path", "sha256", "bytes"}
    assert "session_options" not in json.loads((tmp_path / MANIFEST).read_text())


@pytest.mark.parametrize("engine", [[], "model.plan", 3, True, [ENGINE]])
def test_engines_of_another_type(data: dict[str, Any], tmp_path: Path, one_line: OneLine, engine: Any) -> None:
    data["artifacts"].append({**data["artifacts"][1], "role": "engine", "engine": engine})
    put(tmp_path, data)
    assert "dict is expected" in refusal(tmp_path, one_line)


def test_session_options(manifest: Manifest, tmp_path: Path) -> None:
    options = SessionOptions(memory_pattern=False, entries={"session.dynamic_block_base": "4"})
    other = replace(manifest, session=options)
    other.write(tmp_path)
    assert read_manifest(tmp_path) == other
    assert json.loads((tmp_path / MANIFEST).read_text())["session_options"] == options.to_dict()


def test_bundles_of_before_there_were_session_options(data: dict[str, Any], tmp_path: Path) -> None:
    del data["session_options"]
    put(tmp_path, data)
    assert read_manifest(tmp_path).session == SessionOptions()


@pytest.mark.parametrize(
    "options",
    [
        None,
        [],
        "all",
        {"enable_profiling": True},
        {"profile_file_prefix": "/etc/x"},
        {"entries": {"ep.context_file_path": "/etc/x"}},
        {"entries": {"session.dynamic_block_base": "1000"}},
        {"graph_optimization_level": "a\nb"},
    ],
)
def test_session_options_that_are_not_allowed(
    data: dict[str, Any], tmp_path: Path, one_line: OneLine, options: Any
) -> None:
    data["session_options"] = options
    put(tmp_path, data)
    text = refusal(tmp_path, one_line)
    assert MANIFEST in text and "session" in text and "export again" in text


def test_absent_role(manifest: Manifest, one_line: OneLine) -> None:
    with pytest.raises(BundleError, match="engine") as caught:
        manifest.artifact("engine")
    one_line(caught.value)


def test_no_manifest(tmp_path: Path, one_line: OneLine) -> None:
    assert "not a bundle" in refusal(tmp_path, one_line)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_manifest_that_is_no_file(tmp_path: Path, one_line: OneLine, kind: str) -> None:
    path = tmp_path / MANIFEST
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nowhere")
    assert "not a bundle" in refusal(tmp_path, one_line)


@pytest.mark.parametrize("text", ["", "{", "nonsense", '{"format": "debiexport-bundle",}', "[" * 200_000])
def test_damaged_json(tmp_path: Path, one_line: OneLine, text: str) -> None:
    put(tmp_path, text)
    assert "cannot be read" in refusal(tmp_path, one_line)


def test_not_utf8(tmp_path: Path, one_line: OneLine) -> None:
    (tmp_path / MANIFEST).write_bytes(b'{"format": "\xff"}')
    assert "cannot be read" in refusal(tmp_path, one_line)


def test_enormous_file(tmp_path: Path, one_line: OneLine) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(65 * 2**20)
    assert "no manifest" in refusal(tmp_path, one_line)


@pytest.mark.parametrize("other", [[], 1, None, "x", {}, {"format": "other"}])
def test_other_json(tmp_path: Path, one_line: OneLine, other: Any) -> None:
    put(tmp_path, json.dumps(other))
    assert "not a manifest" in refusal(tmp_path, one_line)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, "1", None])
def test_unknown_version(data: dict[str, Any], tmp_path: Path, one_line: OneLine, version: Any) -> None:
    data["format_version"] = version
    put(tmp_path, data)
    assert f"{version!r}" in refusal(tmp_path, one_line)


KEYS = ["target", "card", "checkpoint", "image_size", "artifacts", "lowering", "labels", "versions", "parity"]


@pytest.mark.parametrize("key", KEYS)
def test_missing_key(data: dict[str, Any], tmp_path: Path, one_line: OneLine, key: str) -> None:
    del data[key]
    put(tmp_path, data)
    assert key in refusal(tmp_path, one_line)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [True, 3, 1.5, "text\nline", [1], {"a": 1}, [[]], [{}], float("inf")])
def test_wrong_type(data: dict[str, Any], tmp_path: Path, one_line: OneLine, key: str, value: Any) -> None:
    if key in ("parity", "target") and isinstance(value, type(data[key])):
        return  # free in content
    data[key] = value
    put(tmp_path, data)
    refusal(tmp_path, one_line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", [64]),
        ("image_size", [64, 64, 64]),
        ("image_size", [64.0, 64]),
        ("image_size", [16, 64]),
        ("image_size", [64, 10**9]),
        ("image_size", [float("nan"), 64]),
        ("labels", ["a", "b"]),
        ("labels", ["a", "b", "c", "d", "e", 6]),
        ("labels", "abcdef"),
        ("lowering", {"name": "gather"}),
        ("input", "float16"),
        ("input", None),
        ("input", ["uint8"]),
        ("versions", {"onnx": 1}),
        ("checkpoint", {"description": "x"}),
        ("checkpoint", {"description": "x", "sha256": 5}),
        ("checkpoint", {"description": None, "sha256": None}),
    ],
)
def test_wrong_content(data: dict[str, Any], tmp_path: Path, one_line: OneLine, key: str, value: Any) -> None:
    data[key] = value
    put(tmp_path, data)
    refusal(tmp_path, one_line)


def test_broken_card(data: dict[str, Any], tmp_path: Path, one_line: OneLine) -> None:
    data["card"]["stages"][0]["C"] = "wide"
    put(tmp_path, data)
    assert "C is 'wide'" in refusal(tmp_path, one_line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("role", 1),
        ("sha256", None),
        ("bytes", "12"),
        ("bytes", float("inf")),
        ("bytes", True),
        ("batch", "three"),
        ("batch", 1.5),
        ("opset", "20"),
        ("precision", 32),
        ("inputs", {}),
        ("inputs", [1]),
        ("inputs", [{"name": "images"}]),
        ("outputs", [{"name": "logits", "dtype": "float32", "shape": ["N", 6]}]),
    ],
)
def test_wrong_artifact(data: dict[str, Any], tmp_path: Path, one_line: OneLine, key: str, value: Any) -> None:
    data["artifacts"][0][key] = value
    put(tmp_path, data)
    refusal(tmp_path, one_line)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a//b",
        "a/../b",
        "/a",
        "c:a",
        "",
        ".",
        "..",
        "manifest.json",
        "a\\b",
        "./x",
        "x/",
        "a\0b",
        "a\nb",
        "\ud800",
        "x/..",
    ],
)
def test_artifacts_lie_inside(data: dict[str, Any], tmp_path: Path, one_line: OneLine, path: str) -> None:
    data["artifacts"][1]["path"] = path
    put(tmp_path, data)
    assert "only files inside the bundle" in refusal(tmp_path, one_line)


@pytest.mark.parametrize(
    ("size", "box"), [((224, 224), [256, 256]), ((384, 384), [438, 438]), ((200, 264), [228, 301])]
)
def test_preprocessing_is_that_of_the_bundle(size: tuple[int, int], box: list[int]) -> None:
    """The card's rule is for its own crop; whoever writes a client needs the numbers of this bundle."""
    card = load_card("debi_t")
    manifest = Manifest("onnx", card, "x", None, size, (), LOWERINGS["cpu"], {}, None, {})
    rule = manifest.to_dict()["preprocessing"]
    assert (rule["resize"], rule["crop"], rule["channels"], rule["range"]) == (box, list(size), "RGB", [0, 1])
    image = Image.new("RGB", (500, 500))
    assert preprocess(image, card.preprocessing, size).shape == (3, *size)
