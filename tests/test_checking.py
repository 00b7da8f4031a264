"""Bundles proven again: with the checkpoint, with stored answers, and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

import debiexport
from debiexport import checking
from debiexport.bundle import sha256_of
from debiexport.cards import Card, shipped_checkpoint
from debiexport.checking import CheckFailed, check
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import BundleError, CheckpointError, MissingDependencyError, UsageError
from debiexport.manifest import MANIFEST

OneLine = Callable[[BaseException], str]


def _beside_the_weights(notes: tuple[str, ...]) -> list[str]:
    """Notes but the one that the weights are random."""
    return [note for note in notes if "mean nothing" not in note]


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch were not installed."""
    monkeypatch.setattr(checking, "missing", lambda packages: ["torch"])
    monkeypatch.setattr("debiexport.extras.missing", lambda packages: ["torch"])


@pytest.fixture(scope="session")
def exported_weights(tiny_card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the weights that the tiny bundles were made from."""
    path = tmp_path_factory.mktemp("checkpoints") / "same.pth"
    torch.save(random_checkpoint(tiny_card).state, path)
    return path


def corrupt(bundle: Path, factor: float = 1.01, tensor: str = "head.bias") -> None:
    """Change one weight of the model, and let the manifest vouch for it."""
    path = bundle / "model.onnx"
    model = onnx.load(str(path))
    (found,) = [t for t in model.graph.initializer if t.name == tensor]
    found.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found) * factor, tensor))
    path.write_bytes(model.SerializeToString())
    rehash(bundle)


def rehash(bundle: Path) -> None:
    data = json.loads((bundle / MANIFEST).read_text())
    for artifact in data["artifacts"]:
        path = bundle / artifact["path"]
        artifact["sha256"], artifact["bytes"] = sha256_of(path), path.stat().st_size
    (bundle / MANIFEST).write_text(json.dumps(data))


# ------------------------------------------------------------------------------------------- holds


@pytest.mark.parametrize("batch", ["dynamic", "static"])
def test_in_full(dynamic_bundle: Path, static_bundle: Path, batch: str) -> None:
    path = dynamic_bundle if batch == "dynamic" else static_bundle
    lines: list[str] = []
    result = check(path, progress=lines.append)
    assert result.parity.ok
    assert result.parity.method == "reference"
    assert _beside_the_weights(result.notes) == []
    assert result.accuracy is None
    assert "recomputing" in lines[-1]
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["parity"]["ok"] is True
    assert "parity holds" in str(result)


@pytest.mark.parametrize("batch", ["dynamic", "static"])
@pytest.mark.usefixtures("no_torch")
def test_by_stored_answers(dynamic_bundle: Path, static_bundle: Path, batch: str) -> None:
    result = check(dynamic_bundle if batch == "dynamic" else static_bundle, threads=1)
    assert result.parity.ok
    assert result.parity.method == "golden"
    assert "torch is not installed" in _beside_the_weights(result.notes)[0]


@pytest.mark.parametrize("kind", ["seg_bundle", "uint8_bundle"])
@pytest.mark.parametrize("torch_is_here", [True, False])
def test_features_and_bytes(kind: str, torch_is_here: bool, request: pytest.FixtureRequest) -> None:
    if not torch_is_here:
        request.getfixturevalue("no_torch")
    result = check(request.getfixturevalue(kind), threads=1)
    assert result.parity.ok
    assert result.parity.method == ("reference" if torch_is_here else "golden")


@pytest.mark.parametrize("torch_is_here", [True, False])
@pytest.mark.parametrize("output", ["feature1", "feature4"])
def test_corrupt_features(seg_bundle: Path, output: str, request: pytest.FixtureRequest, torch_is_here: bool) -> None:
    if not torch_is_here:
        request.getfixturevalue("no_torch")
    corrupt(seg_bundle, tensor=f"{output}.norm.bias")
    with pytest.raises(CheckFailed, match=f"in {output} is above"):
        check(seg_bundle)


def test_accuracy_of_features(seg_bundle: Path, tmp_path: Path, one_line: OneLine) -> None:
    lines: list[str] = []
    with pytest.raises(UsageError, match="--eval needs classes") as caught:
        check(seg_bundle, evaluate_on=tmp_path, progress=lines.append)
    one_line(caught.value)
    assert len(lines) == 1, "said before anything is computed"


def test_bytes_taken_for_floats(uint8_bundle: Path, one_line: OneLine) -> None:
    data = json.loads((uint8_bundle / MANIFEST).read_text())
    data["input"] = "normalized"
    (uint8_bundle / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleError, match="not the network of the manifest") as caught:
        check(uint8_bundle)
    one_line(caught.value)


def test_bundle_of_a_file_without_the_file(dynamic_bundle: Path) -> None:
    data = json.loads((dynamic_bundle / MANIFEST).read_text())
    data["checkpoint"]["sha256"] = "0" * 64
    (dynamic_bundle / MANIFEST).write_text(json.dumps(data))
    result = check(dynamic_bundle)
    assert result.parity.method == "golden"
    assert "--checkpoint" in result.notes[0]


def test_another_file_with_the_same_weights(dynamic_bundle: Path, exported_weights: Path) -> None:
    result = check(dynamic_bundle, exported_weights)
    assert result.parity.method == "reference"
    (note,) = _beside_the_weights(result.notes)
    assert "same.pth is not the file that was exported" in note


def test_accuracy(dynamic_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "eval" / "0").mkdir(parents=True)
    Image.new("RGB", (80, 80), (200, 10, 10)).save(tmp_path / "eval" / "0" / "a.png")
    result = check(dynamic_bundle, evaluate_on=tmp_path / "eval")
    assert result.accuracy is not None
    assert result.accuracy.images == 1
    assert "top-1" in str(result)
    (tmp_path / "eval" / "0" / "b.png").write_text("no image")
    again = check(dynamic_bundle, evaluate_on=tmp_path / "eval")
    assert again.parity.ok and again.accuracy is not None
    assert (again.accuracy.images, len(again.accuracy.skipped)) == (1, 1)
    assert str(again).endswith("of 1 images, skipped 1")


# -------------------------------------------------------------------------------------------- lost


@pytest.mark.parametrize("torch_is_here", [True, False])
def test_corrupt_weights(
    static_bundle: Path, request: pytest.FixtureRequest, one_line: OneLine, torch_is_here: bool
) -> None:
    if not torch_is_here:
        request.getfixturevalue("no_torch")
    corrupt(static_bundle)
    with pytest.raises(CheckFailed) as caught:
        check(static_bundle)
    assert caught.value.exit_code == 3
    message = one_line(caught.value)
    assert "parity is lost" in message
    assert "do not deploy" in message
    assert message.endswith(f"with torch and the weights: debiexport check {static_bundle} --bisect")
    assert not caught.value.parity.ok


def test_other_weights(static_bundle: Path, tiny_card: Card, tmp_path: Path) -> None:
    torch.save(random_checkpoint(tiny_card, seed=1).state, tmp_path / "other.pth")
    with pytest.raises(CheckFailed, match=r"other\.pth is not the file that was exported \(random, seed 0\): compare"):
        check(static_bundle, tmp_path / "other.pth")


# ---------------------------------------------------------------------------------------- refusals


def test_altered_file(dynamic_bundle: Path) -> None:
    with (dynamic_bundle / "golden.npz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="bytes"):
        check(dynamic_bundle)


@pytest.mark.usefixtures("no_torch")
def test_checkpoint_without_torch(dynamic_bundle: Path, exported_weights: Path, one_line: OneLine) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check(dynamic_bundle, exported_weights)
    assert caught.value.exit_code == 5
    assert one_line(caught.value).endswith(
        "not installed here: pip install 'debiexport[export]', or in a checkout pip install '.[export]'"
    )


@pytest.mark.parametrize("bundle", [None, 3, b"bundle"])
def test_what_is_no_path(bundle: Any, one_line: OneLine) -> None:
    for function in (check, debiexport.bisect):
        with pytest.raises(UsageError, match="give the path of a folder") as caught:
            function(bundle)
        assert repr(bundle) in one_line(caught.value)


def test_checkpoint_that_is_not_there(dynamic_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check(dynamic_bundle, tmp_path / "nowhere.pth")


def test_checkpoint_of_another_network(
    dynamic_bundle: Path, tiny_bi_card: Card, tmp_path: Path, one_line: OneLine
) -> None:
    torch.save(random_checkpoint(tiny_bi_card).state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"does not fit tiny_debi: .*: leave the checkpoint out$") as caught:
        check(dynamic_bundle, tmp_path / "other.pth")
    assert "--model" not in one_line(caught.value)


def test_checkpoint_of_a_shipped_network(dynamic_bundle: Path, one_line: OneLine) -> None:
    """The advice is for `check`, which has no --model."""
    data = json.loads((dynamic_bundle / MANIFEST).read_text())
    data["checkpoint"] = {"description": "mine.pth", "sha256": "0" * 64}
    (dynamic_bundle / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="does not fit tiny_debi") as caught:
        check(dynamic_bundle, shipped_checkpoint("debi_nano"))
    message = one_line(caught.value)
    assert message.endswith(
        "; this looks like debi_nano: give the checkpoint that the bundle was exported from, mine.pth"
    )


def test_checkpoint_with_other_classes(
    dynamic_bundle: Path, tiny_card: Card, tmp_path: Path, one_line: OneLine
) -> None:
    torch.save(random_checkpoint(replace(tiny_card, num_classes=3)).state, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="3 classes, the bundle 6") as caught:
        check(dynamic_bundle, tmp_path / "other.pth")
    assert "num-classes" not in one_line(caught.value)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read even by root")
def test_checkpoint_that_cannot_be_read(dynamic_bundle: Path, one_line: OneLine) -> None:
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        check(dynamic_bundle, "/proc/self/mem")
    one_line(caught.value)


# ----------------------------------------------------------------------------------- without torch

_PROGRAM = """
import sys
blocked = ("torch", "onnxscript", "safetensors", "torchvision")
for name in blocked:
    sys.modules[name] = None
from debiexport.cli.main import run
bundle, image, weights = sys.argv[1:]
codes = [
    run(["check", bundle]),
    run(["predict", bundle, image]),
    run(["models"]),
    run(["check", bundle, "--checkpoint", weights]),
    run(["onnx", "--model", "debi_nano"]),
]
assert all(sys.modules[name] is None for name in blocked)
print(codes)
"""


def test_check_and_predict_never_import_torch(dynamic_bundle: Path, exported_weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (80, 80), (200, 10, 10)).save(tmp_path / "a.png")
    arguments = [str(dynamic_bundle), str(tmp_path / "a.png"), str(exported_weights)]
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[0, 0, 0, 5, 5]"
    assert "Traceback" not in run.stderr


def test_random_weights_are_said_each_time(dynamic_bundle: Path) -> None:
    assert any("random, seed 0: its outputs mean nothing" in note for note in check(dynamic_bundle).notes)


def test_a_folder_that_cannot_be_evaluated_is_refused_before_the_proof(dynamic_bundle: Path) -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match="--eval nosuch is not a folder"):
        check(dynamic_bundle, evaluate_on="nosuch", progress=said.append)
    assert len(said) == 1
