"""`debiexport bench` of a TensorRT bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_bundles import QUICK
from fake_tensorrt import FakeTensorRT

from debiexport.bench import engines
from debiexport.cli.main import run

TIMES = ["--min-time", "0.01", "--max-time", "0.05"]


# What is timed is right elsewhere: a fast warm-up is enough here.
@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "Plan", lambda: QUICK)


def test_on_a_gpu(engine_bundle: Path, trt: FakeTensorRT, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert run(["bench", str(engine_bundle), *TIMES, "--batch", "1", "--json-file", str(file)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("model.plan (fp16), TensorRT 11.4.0.106, NVIDIA L4 (8.9), batch 1\n")
    assert "parity holds: PSNR" in said.out and "timing model.plan" in said.err
    data = json.loads(file.read_text())
    assert data["engines"][0]["latency"]["format"] == "debiexport-tensorrt-latency"
    assert run(["bench", str(engine_bundle), *TIMES, "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"][0]["check"]["batch"] == 2


def test_parity_that_is_lost(
    engine_bundle: Path, trt: FakeTensorRT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trt.spoils = lambda batch: True
    file = tmp_path / "result.json"
    assert run(["bench", str(engine_bundle), *TIMES, "-q", "--json-file", str(file)]) == 3
    said = capsys.readouterr()
    assert said.out == "" and not file.exists()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and "model.plan, batch 2: parity is lost: PSNR" in line
    assert run(["bench", str(engine_bundle), *TIMES, "-q", "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 3 and data["error"] in line


def test_without_a_gpu(
    engine_bundle: Path, trt: FakeTensorRT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trt.cuda.count = 0
    file = tmp_path / "result.json"
    assert run(["bench", str(engine_bundle), "--json-file", str(file)]) == 5
    said = capsys.readouterr()
    assert "error: running model.plan needs an NVIDIA GPU" in said.err and said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]
    assert run(["bench", str(engine_bundle), "--json", "-q"]) == 5
    assert json.loads(capsys.readouterr().out)["exit_code"] == 5


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--against", "plain"], "--against does not apply to a TensorRT bundle, which is timed by itself on the GPU"),
        (["--checkpoint", "file.pth"], "--checkpoint does not apply to a TensorRT bundle"),
        (["--threads", "1"], "--threads does not apply to a TensorRT bundle"),
        (["--profile"], "--profile does not apply to a TensorRT bundle"),
        (["--provider", "cuda"], "--provider does not apply to a TensorRT bundle"),
        (["--batch", "5"], "the batch is 5, but the engines of"),
        (["--batch", "x"], "--batch is 'x'"),
        (["--min-time", "x"], "--min-time"),
    ],
)
def test_bad_options(
    engine_bundle: Path,
    trt: FakeTensorRT,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
    words: str,
) -> None:
    assert run(["bench", str(engine_bundle), *option]) == 2
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert words in line and said.out == "" and trt.deserialized == 0
