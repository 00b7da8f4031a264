"""`check` of a Core ML bundle: on any machine, and on a Mac with a model that stands in for Core ML's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_coreml
import numpy as np
import pytest

from debiexport import checking
from debiexport.bench.coreml_units import UnitsFailed
from debiexport.bundle import GOLDEN, Bundle, open_bundle
from debiexport.checking import CheckResult, check
from debiexport.checking_units import UnitCheck, check_units, why_not_asked
from debiexport.cli.main import run
from debiexport.parity_report import ParityReport
from debiexport.runtimes import coreml_process, macos
from debiexport.runtimes.macos import ALL_UNITS

OneLine = Callable[[BaseException], str]


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package had been evaluated and compared; the evaluator has tests of its own."""
    report = ParityReport("golden", "fp16", 1e-7, 1e-6, (), (), min_psnr_db=55.0)
    monkeypatch.setattr(ParityReport, "failures", [])
    monkeypatch.setattr(ParityReport, "__str__", lambda self: "parity holds")
    monkeypatch.setattr(checking, "_judge_in_full", lambda *arguments: report)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A Mac on which choices of compute units behave as told."""
    monkeypatch.setattr(macos, "_system", lambda: "darwin")
    monkeypatch.setattr(macos, "require_macos", lambda what: None)
    monkeypatch.setattr(macos, "default_cache", lambda: tmp_path / "cache")

    def behave(bundle: Path, **behaviours: str) -> None:
        golden = {"golden": str(open_bundle(bundle).file(GOLDEN))}
        monkeypatch.setattr(coreml_process, "WORKER", fake_coreml.bootstrap({**golden, **behaviours}))

    return behave


def checked(bundle: Path, **options: Any) -> tuple[UnitCheck, ...]:
    return check_units(open_bundle(bundle), **options)


def test_every_unit_is_asked(coreml_bundle: Path, mac: Callable[..., None]) -> None:
    mac(coreml_bundle)
    lines: list[str] = []
    units = checked(coreml_bundle, progress=lines.append)
    assert [unit.unit for unit in units] == list(ALL_UNITS)
    assert all(unit.failure is None for unit in units)
    engine = units[1]
    assert engine.on_neural_engine == 0.75 and units[3].on_neural_engine == 0
    assert str(engine).startswith("CPU_AND_NE, batch 1: parity holds: PSNR ")
    assert str(engine).endswith("planned for the Neural Engine: 75% of the cost")
    data = json.loads(json.dumps([unit.to_dict() for unit in units], allow_nan=False))
    assert data[1]["ok"] and data[1]["parity"]["psnr_db"] is None  # nothing differs
    assert data[1]["compute_plan"]["cost_share"]["NeuralEngine"] == 0.75
    assert lines[0] == "compiling model.mlpackage"
    assert sum("compiling" in line for line in lines) == 1


def test_without_a_compute_plan(coreml_bundle: Path, mac: Callable[..., None]) -> None:
    mac(coreml_bundle, plan="refuses")
    (unit,) = checked(coreml_bundle, units=["ALL"])
    assert unit.failure is None and unit.on_neural_engine is None
    assert "no compute plan (Core ML on ALL failed while planning: RuntimeError: MLComputePlan" in str(unit)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("wrong", "CPU_AND_NE, batch 1: parity is lost: PSNR"),
        ("dies", "CPU_AND_NE, batch 1: Core ML on CPU_AND_NE failed: its process died while predicting: signal 9"),
        ("refuses", "is not loaded by Core ML on CPU_AND_NE"),
    ],
)
def test_a_unit_that_fails_is_named_and_the_others_reported(
    coreml_bundle: Path, mac: Callable[..., None], proven: None, one_line: OneLine, behaviour: str, words: str
) -> None:
    mac(coreml_bundle, CPU_AND_NE=behaviour)
    with pytest.raises(UnitsFailed) as caught:
        check(coreml_bundle)
    assert words in one_line(caught.value)
    assert caught.value.exit_code == 3
    result = caught.value.result
    assert isinstance(result, CheckResult)
    assert [unit.unit for unit in result.units if unit.failure is None] == ["ALL", "CPU_AND_GPU", "CPU_ONLY"]


def test_a_package_that_is_not_compiled_fails_everywhere(
    coreml_bundle: Path, mac: Callable[..., None], proven: None, one_line: OneLine
) -> None:
    mac(coreml_bundle, compiler="dies")
    with pytest.raises(UnitsFailed) as caught:
        check(coreml_bundle)
    assert "died while compiling: signal 11" in one_line(caught.value)
    assert "and 3 more failures" in str(caught.value)


def test_told_on_the_command_line(
    coreml_bundle: Path, mac: Callable[..., None], proven: None, capsys: pytest.CaptureFixture[str]
) -> None:
    mac(coreml_bundle)
    assert run(["check", str(coreml_bundle), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("known never to run on an M1's Neural Engine" in line for line in lines)
    assert [line.split(",")[0] for line in lines[-4:]] == [f"Core ML on {unit}" for unit in ALL_UNITS]

    mac(coreml_bundle, ALL="wrong")
    assert run(["check", str(coreml_bundle), "-q"]) == 3
    said = capsys.readouterr()
    assert "Core ML on ALL, batch 1: parity is lost: PSNR" in said.out
    assert "Core ML on CPU_ONLY, batch 1: parity holds" in said.out
    assert said.err.count("error: ") == 1 and "ALL, batch 1: parity is lost" in said.err

    assert run(["check", str(coreml_bundle), "-q", "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 3 and "ALL, batch 1" in data["error"]
    assert [unit["ok"] for unit in data["units"]] == [False, True, True, True]
    assert data["placement"]["function"] == "main"


def test_several_models_are_each_asked(coreml_bundle: Path, mac: Callable[..., None]) -> None:
    mac(coreml_bundle)
    bundle = open_bundle(coreml_bundle)
    (model,) = bundle.models
    others = [artifact for artifact in bundle.manifest.artifacts if artifact is not model]
    manifest = replace(bundle.manifest, artifacts=(model, replace(model, batch=2, function="batch2"), *others))
    units = check_units(Bundle(bundle.path, manifest), units=["CPU_ONLY"])
    assert [unit.batch for unit in units] == [1, 2]
    assert [unit.plan.function for unit in units if unit.plan] == ["main", "batch2"]
    assert all(unit.failure is None for unit in units)


def test_elsewhere_core_ml_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macos, "_system", lambda: "linux")
    assert "runs on macOS only" in str(why_not_asked())
    monkeypatch.setattr(macos, "_system", lambda: "darwin")
    monkeypatch.setattr(macos, "_has_native_library", lambda: False)
    assert "needs the native library of coremltools" in str(why_not_asked())
    monkeypatch.setattr(macos, "_has_native_library", lambda: True)
    assert why_not_asked() is None


def test_the_stored_answers_are_those_that_the_package_gives(
    coreml_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole check off a Mac, nothing replaced."""
    monkeypatch.setattr(macos, "_system", lambda: "linux")
    result = check(coreml_bundle, threads=1)
    assert result.parity.ok and result.parity.precision == "fp16"
    assert result.placement is not None and result.units == ()
    assert "was not asked" in result.notes[-1]
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["units"] == [] and data["placement"]["multiply_adds"] > 0
    assert np.isfinite(data["parity"]["outputs"][0]["relative_error"])
