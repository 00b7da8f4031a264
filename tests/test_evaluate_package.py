from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluate_packages import MODEL, WEIGHTS, ct, edit, mb, operations, quiet, read, save

from debiexport.errors import BundleError, MissingDependencyError
from debiexport.evaluate import package as package_module
from debiexport.evaluate.package import open_package

OneLine = Callable[[BaseException], str]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    path = tmp_path_factory.mktemp("evaluate_package") / "small.mlpackage"
    return save(path, lambda x: mb.linear(x=x, weight=weight, name="out"), [(2, 3)])


@pytest.fixture
def saved(pristine: Path, tmp_path: Path) -> Path:
    """A package that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "small.mlpackage"))


def _refused(path: Path, one_line: OneLine, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        read(path)
    text = one_line(caught.value)
    assert all(word in text for word in words), text


def test_finds_the_model_and_weights(saved: Path) -> None:
    package = open_package(saved)
    assert package.path == saved
    assert package.model == saved / MODEL
    assert package.weights == saved / WEIGHTS
    assert package.weights.is_file()


def test_not_a_folder(tmp_path: Path, one_line: OneLine) -> None:
    _refused(tmp_path / "absent.mlpackage", one_line, "not a folder")
    (tmp_path / "file.mlpackage").write_bytes(b"PK")
    _refused(tmp_path / "file.mlpackage", one_line, "not a folder")


def test_no_manifest(saved: Path, one_line: OneLine) -> None:
    (saved / "Manifest.json").unlink()
    _refused(saved, one_line, "no Manifest.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_broken_manifest(saved: Path, content: bytes, one_line: OneLine) -> None:
    (saved / "Manifest.json").write_bytes(content)
    _refused(saved, one_line, "not JSON")


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"fileFormatVersion": "2.0.0"}'])
def test_foreign_manifest(saved: Path, content: str, one_line: OneLine) -> None:
    (saved / "Manifest.json").write_text(content)
    _refused(saved, one_line, "not the manifest")


def test_manifest_without_root(saved: Path, one_line: OneLine) -> None:
    (saved / "Manifest.json").write_text('{"fileFormatVersion": "1.0.0", "itemInfoEntries": {}}')
    _refused(saved, one_line, "names no model")


def test_large_manifest(saved: Path, one_line: OneLine) -> None:
    with (saved / "Manifest.json").open("ab") as file:
        file.truncate(package_module.MAX_MANIFEST_BYTES + 1)
    _refused(saved, one_line, "allowed are")


def test_large_model(saved: Path, one_line: OneLine) -> None:
    with (saved / MODEL).open("ab") as file:  # sparse: takes no space
        file.truncate(package_module.MAX_MODEL_BYTES + 1)
    _refused(saved, one_line, "allowed are")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../outside", "com.apple.CoreML/../../../outside", "", "a\\..\\b", "a\0b"]
)
def test_item_outside(saved: Path, path: str, one_line: OneLine) -> None:
    _set_root(saved, path)
    _refused(saved, one_line, "may lie outside")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_link_outside(saved: Path, tmp_path: Path, one_line: OneLine) -> None:
    outside = tmp_path / "outside.mlmodel"
    shutil.move(saved / MODEL, outside)
    (saved / MODEL).symlink_to(outside)
    _refused(saved, one_line, "leads outside")


def test_model_missing(saved: Path, one_line: OneLine) -> None:
    (saved / MODEL).unlink()
    _refused(saved, one_line, "lacks", "model.mlmodel")


def test_model_truncated(saved: Path, one_line: OneLine) -> None:
    content = (saved / MODEL).read_bytes()
    for length in (len(content) - 1, len(content) // 2, 100):
        (saved / MODEL).write_bytes(content[:length])
        _refused(saved, one_line)


@pytest.mark.parametrize("content", [b"\xff" * 50, b"{}", b"not a model"])
def test_model_of_something_else(saved: Path, content: bytes, one_line: OneLine) -> None:
    (saved / MODEL).write_bytes(content)
    _refused(saved, one_line)


def test_empty_model(saved: Path, one_line: OneLine) -> None:
    (saved / MODEL).write_bytes(b"")
    _refused(saved, one_line, "no model", "not an ML Program")


def test_altered_model_never_fails_otherwise(saved: Path) -> None:
    """A byte changed anywhere is either unnoticed, as in a name, or refused as a bundle's fault."""
    content = (saved / MODEL).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 300):
        altered = bytearray(content)
        altered[place] ^= 1 << int(rng.integers(8))
        (saved / MODEL).write_bytes(bytes(altered))
        try:
            function = read(saved).function()
            for operation in function.operations:
                if operation.is_constant:
                    function.constant(operation.outputs[0].name)
        except BundleError:
            continue


def test_neural_network(saved: Path, one_line: OneLine) -> None:
    def change(model: object) -> None:
        model.ClearField("mlProgram")  # type: ignore[attr-defined]
        model.neuralNetwork.SetInParent()  # type: ignore[attr-defined]

    edit(saved, change)
    _refused(saved, one_line, "neuralNetwork", "not an ML Program")


def test_weights_missing(saved: Path, one_line: OneLine) -> None:
    (saved / WEIGHTS).unlink()
    _refused(saved, one_line, "lacks 'weights/weight.bin'")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/passwd", "not beside its model"),
        ("@model_path/../../../weights.bin", "may lie outside"),
        ("@model_path//etc/passwd", "may lie outside"),
        ("@model_path/weights/other.bin", "lacks 'weights/other.bin'"),
        ("@model_path/two\nlines", "lacks 'two\\nlines'"),
    ],
)
def test_weights_elsewhere(saved: Path, name: str, words: str, one_line: OneLine) -> None:
    def change(model: object) -> None:
        for operation in operations(model):
            if operation.attributes["val"].WhichOneof("value") == "blobFileValue":
                operation.attributes["val"].blobFileValue.fileName = name

    edit(saved, change)
    _refused(saved, one_line, words)


def test_coremltools_not_installed(saved: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setattr("debiexport.extras.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        read(saved)
    assert "pip install 'debiexport[coreml]'" in one_line(caught.value)


def test_coremltools_reads_what_we_read(saved: Path) -> None:
    """The package that the other tests spoil is a sound one."""
    with quiet():
        model = ct.models.MLModel(str(saved), skip_model_load=True)
    assert [each.name for each in model.get_spec().description.input] == ["x"]
    assert read(saved).function().outputs == ("out",)


def _set_root(path: Path, item: str) -> None:
    manifest = json.loads((path / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = item
    (path / "Manifest.json").write_text(json.dumps(manifest))
