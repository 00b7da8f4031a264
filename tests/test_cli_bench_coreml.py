"""`debiexport bench` of a Core ML bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fake_coreml
import pytest

import debiexport
from debiexport.bench.coreml import measure_coreml
from debiexport.bundle import GOLDEN, open_bundle
from debiexport.cli.main import run
from debiexport.errors import UsageError
from debiexport.manifest import MANIFEST
from debiexport.runtimes import coreml_process, macos

TIMES = ["--min-time", "0.01", "--max-time", "0.02"]


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.setattr(macos, "require_macos", lambda what: None)
    monkeypatch.setattr(macos, "default_cache", lambda: tmp_path / "cache")

    def behave(bundle: Path, **behaviours: str) -> None:
        golden = {"golden": str(open_bundle(bundle).file(GOLDEN))}
        monkeypatch.setattr(coreml_process, "WORKER", fake_coreml.bootstrap({**golden, **behaviours}))

    return behave


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macos, "_system", lambda: "linux")


# What is timed is right elsewhere: a fast warm-up is enough here.
@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from debiexport.bench import coreml
    from debiexport.bench.runner import Plan

    quick = Plan(warmup_window_s=1e-3, warmup_max_s=0.01, block_s=1e-3, block_min_runs=5, min_count=5)
    monkeypatch.setattr(coreml, "Plan", lambda: quick)


def refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    (line,) = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert words in line


def test_on_a_mac(
    coreml_bundle: Path, mac: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mac(coreml_bundle, CPU_AND_GPU="wrong")
    file = tmp_path / "result.json"
    assert run(["bench", str(coreml_bundle), *TIMES, "--json-file", str(file), "--batch", "1"]) == 0
    said = capsys.readouterr()
    assert "native p50" in said.out and "NOT TIMED: CPU_AND_GPU: parity is lost" in said.out
    assert "CPU_ONLY: loading" in said.err
    data = json.loads(file.read_text())
    assert data["format"] == "debiexport-coreml-latency"
    assert [unit["unit"] for unit in data["units"] if unit["samples_ns"]] == ["ALL", "CPU_AND_NE", "CPU_ONLY"]
    assert run(["bench", str(coreml_bundle), *TIMES, "--json", "-q"]) == 0
    assert len(json.loads(capsys.readouterr().out)["units"]) == 4


def test_every_unit_fails(
    coreml_bundle: Path, mac: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mac(coreml_bundle, **dict.fromkeys(macos.ALL_UNITS, "wrong"))
    file = tmp_path / "result.json"
    assert run(["bench", str(coreml_bundle), *TIMES, "-q", "--json-file", str(file)]) == 3
    said = capsys.readouterr()
    assert said.out.count("NOT TIMED") == 4
    (line,) = said.err.splitlines()
    assert "ALL: parity is lost" in line and "and 3 more failures" in line
    assert len(json.loads(file.read_text())["failures"]) == 4
    assert run(["bench", str(coreml_bundle), *TIMES, "-q", "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 3 and len(data["failures"]) == 4 and data["error"] in line


@pytest.mark.usefixtures("linux")
def test_elsewhere_the_placement_is_told(
    coreml_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    assert run(["bench", str(coreml_bundle), "--json-file", str(file)]) == 5
    said = capsys.readouterr()
    assert said.out.startswith("function 'main': predicted from the saved package")
    assert said.err.count("error: measuring a Core ML bundle needs macOS") == 1
    assert not file.exists()
    assert run(["bench", str(coreml_bundle), "--json"]) == 5
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data.keys() == {"placement", "error", "exit_code"} and data["exit_code"] == 5
    assert data["placement"]["basis"].startswith("predicted")
    assert said.err == f"error: {data['error']}\n"


@pytest.mark.usefixtures("linux")
def test_a_manifest_without_placement(coreml_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads((coreml_bundle / MANIFEST).read_text())
    del data["placement"]
    (coreml_bundle / MANIFEST).write_text(json.dumps(data))
    assert run(["bench", str(coreml_bundle)]) == 5
    assert capsys.readouterr().out == ""
    assert run(["bench", str(coreml_bundle), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["placement"] is None


@pytest.mark.parametrize(
    "option",
    [
        ["--against", "plain"],
        ["--checkpoint", "file.pth"],
        ["--threads", "1"],
        ["--profile"],
        ["--provider", "cuda"],
    ],
)
def test_options_that_do_not_apply(coreml_bundle: Path, capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    refused([str(coreml_bundle), *option], f"{option[0]} does not apply to a Core ML bundle", capsys)


def test_one_at_a_time_and_of_one_target(
    coreml_bundle: Path, dynamic_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([str(coreml_bundle), str(coreml_bundle)], "measure one at a time", capsys)
    refused([str(dynamic_bundle), str(coreml_bundle)], f"{dynamic_bundle} is not: they run in different ways", capsys)
    refused([str(coreml_bundle.parent / "nowhere")], "no bundle at", capsys)


def test_from_python(coreml_bundle: Path) -> None:
    assert debiexport.measure_coreml is measure_coreml
    with pytest.raises(UsageError, match="is a Core ML bundle: measure it by itself, with measure_coreml"):
        debiexport.measure_latency([coreml_bundle])
