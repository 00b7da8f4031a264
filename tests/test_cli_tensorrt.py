"""`debiexport tensorrt` from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import tiny_bi_toml
from fake_tensorrt import FakeTensorRT
from onnx import numpy_helper

from debiexport.cli.main import run
from debiexport.errors import EngineError
from debiexport.targets.tensorrt import rtx

pytest.importorskip("onnx_graphsurgeon")
pytestmark = pytest.mark.usefixtures("kept_conversions")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An export of the tiny BiFormer, in a folder of its own; the card is elsewhere."""
    card, folder = tmp_path / "card.toml", tmp_path / "here"
    card.write_text(tiny_bi_toml())
    folder.mkdir()
    monkeypatch.chdir(folder)
    return ["tensorrt", "--model", str(card), "--image-size", "64", "--output", "out"]


def error_of(said: str) -> str:
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    return line


def test_what_it_prints_and_writes(
    command: list[str], trt: FakeTensorRT, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*command, "--batch", "1:2:4", "--timing-cache", "times"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert "parity holds: PSNR" in said.out
    assert lines[-2].startswith("model.plan: TensorRT 11.4.0.106, NVIDIA L4 (8.9), batch 1:2:4, ")
    assert lines[-1] == f"{Path.cwd()}/out: model.onnx, golden.npz, model.plan, model.timing, manifest.json"
    for words in (
        "converting to ONNX, typed as fp16, batch 1:2:4",
        "proving parity by evaluating model.onnx as typed",
        "building an engine of model.onnx (tensorrt)",
        "running model.plan at batch 1 and 4",
        "WARNING: no checkpoint was given",
    ):
        assert words in said.err
    assert sorted(path.name for path in Path().iterdir()) == ["out", "times"]

    assert run(["check", "out", "--json", "--quiet"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parity"]["precision"] == "fp16" and [e["batch"] for e in data["engines"]] == [1, 4]


def test_for_programs(command: list[str], trt: FakeTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--precision", "fp32", "--json", "--quiet"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["manifest"]["target"] == "tensorrt" and len(data["engines"]) == 1
    model, _, engine, cache = data["manifest"]["artifacts"]
    assert (model["precision"], engine["precision"], cache["role"]) == ("fp32", "fp32", "timing_cache")
    assert engine["engine"]["profile"] == {"min": 1, "opt": 1, "max": 1}


def test_without_an_engine(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--engine", "none", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"{Path.cwd()}/out: model.onnx, golden.npz, manifest.json"
    assert "building" not in said.err
    assert run(["predict", "out", str(Path(__file__).parent.parent / "models" / "debi_nano" / "3" / "0089.png")]) == 0
    said = capsys.readouterr()
    assert said.out.count("%") == 5 and "random, seed 0: its outputs mean nothing" in said.err
    assert run([*command, "--engine", "none", "--quiet"]) == 2
    assert "--force" in error_of(capsys.readouterr().err)
    assert run([*command, "--engine", "none", "--quiet", "--force"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "bf16"], "--precision is 'bf16': give fp32 or fp16"),
        (["--batch", "dynamic"], "--batch is 'dynamic': give a number such as 8, MIN:OPT:MAX such as 1:8:32"),
        (["--batch", ""], "--batch is ''"),
        (["--batch", "1,"], "--batch is ''"),
        (["--batch", "1:2"], "--batch is '1:2'"),
        (["--batch", "0"], "--batch is 0: give batches from 1 to 1024"),
        (["--batch", "4:2:1"], "--batch is 4:2:1: give the smallest first and the largest last"),
        (["--batch", "1:8:4"], "--batch is 1:8:4: give the smallest first and the largest last"),
        (["--batch", "2,4,2"], "--batch is 2,4,2: give 1 to 8 different ones"),
        (["--batch", "1,2,3,4,5,6,7,8,9"], "give 1 to 8 different ones"),
        (["--batch", "1:2:4", "--plugins"], "--batch is 1:2:4, and sizes are constants of the kernels of --plugins"),
        (["--plugins"], "--plugins: routing=fused does not serve stage1.block1.attn: heads are 8 channels wide"),
        (["--engine", "onnx"], "--engine is 'onnx': give tensorrt, rtx, none"),
        (["--engine", "none", "--gpu", "sm89"], "--gpu is for --engine rtx, and with --engine none the engine is not"),
        (["--gpu", "sm90"], "--gpu sm90 is not served by TensorRT for RTX"),
        (["--gpu", ","], "--gpu names no compute capability"),
        (["--gpu", "sm89,sm89"], "--gpu names sm89 twice"),
        (
            ["--engine", "none", "--timing-cache", "x"],
            "--timing-cache is for --engine tensorrt, and this is --engine no",
        ),
        (["--timing-cache", ""], "--timing-cache"),
        (["--image-size", "8"], "--image-size"),
        (["--checkpoint", "none.pth"], "none.pth"),
        (["--num-classes", "x"], "--num-classes"),
        (["--opset", "20"], "No such option"),
        (["--lowering", "cpu"], "No such option"),
    ],
)
def test_bad_options(command: list[str], capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert run([*command, *options]) == 2
    said = capsys.readouterr()
    assert words in error_of(said.err) and said.out == "" and "Traceback" not in said.err
    assert list(Path().iterdir()) == []


def test_full_tensorrt_that_is_not_here(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert run([*command, "--engine", "tensorrt"]) == 5
    line = error_of(capsys.readouterr().err)
    assert (
        "needs an NVIDIA GPU and TensorRT 10.13 or newer" in line and "--engine rtx" in line and "--engine none" in line
    )
    assert run([*command, "--engine", "tensorrt", "--json", "-q"]) == 5
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 5 and "--engine none" in data["error"]
    assert list(Path().iterdir()) == []


def test_the_wheel_for_rtx_is_not_here(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import debiexport.extras as extras

    whole = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "tensorrt_rtx" else whole(name))
    assert run([*command, "--engine", "rtx"]) == 5
    assert "--engine rtx needs TensorRT for RTX, which is not installed here" in error_of(capsys.readouterr().err)
    assert list(Path().iterdir()) == []
    # Nobody asked for an engine: the typed model alone is what this machine can do.
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert run([*command, "-q"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{Path.cwd()}/out: model.onnx, golden.npz, manifest.json"


def test_a_timing_cache_that_is_a_folder(
    command: list[str], trt: FakeTensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--timing-cache", ".."]) == 2
    assert "--timing-cache .. is a folder: give a file" in error_of(capsys.readouterr().err)
    assert list(Path().iterdir()) == []


def test_a_builder_that_fails(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: Any, **options: Any) -> None:
        raise EngineError("TensorRT refuses the graph: stem.conv1/Conv: no")

    monkeypatch.setattr(rtx, "build", build)
    monkeypatch.setattr("debiexport.targets.tensorrt.builders.missing", lambda names: [])
    assert run([*command, "--engine", "rtx", "-q"]) == 1
    said = capsys.readouterr()
    assert error_of(said.err) == "error: TensorRT refuses the graph: stem.conv1/Conv: no" and said.out == ""
    assert list(Path().iterdir()) == []


def _spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    from debiexport.graph import typed as package

    whole = package.typed

    def typed(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
        result = whole(model, precision)
        (tensor,) = (t for t in result.graph.initializer if t.name == "stage2.block1.mlp.linear1.weight")
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
        return result

    monkeypatch.setattr(package, "typed", typed)


def test_an_overflow(command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, lambda weight: weight / abs(weight).max() * weight.dtype.type(6e4))
    assert run([*command, "--engine", "none", "--quiet"]) == 3
    said = capsys.readouterr()
    assert "in model.onnx 'stage2.block1.mlp.linear1/Gemm' is the first tensor that is not finite" in said.err
    assert "export with --precision fp32" in error_of(said.err) and "outputs are not finite" in said.out
    assert [path.name for path in Path().iterdir()] == ["out.unverified"]
    assert run([*command, "--engine", "none", "--quiet", "--json", "--force"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 3 and not data["parity"]["ok"]


def test_an_engine_that_computes_something_else(
    command: list[str], trt: FakeTensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    trt.spoils = lambda batch: True
    assert run([*command, "--quiet"]) == 3
    said = capsys.readouterr()
    assert "model.plan, batch 1: parity is lost: PSNR" in error_of(said.err)
    assert said.out.splitlines()[-1].startswith("of the model itself parity holds: PSNR ")
    assert "failures" not in said.out
    assert [path.name for path in Path().iterdir()] == ["out.unverified"]
