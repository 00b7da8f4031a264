"""What bench can rely on, from files that look like the system's."""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from pretended import RUNNING, pretend

from debiexport.doctor import measuring
from debiexport.doctor.measuring import Measuring, read_measuring
from debiexport.doctor.packages import PACKAGES, Package

NONE_INSTALLED = {name: Package(name, None) for name in PACKAGES}
STAT = "cpu  10 20 30 400 5 0 6 7 99 0\n"


def machine(root: Path, *, pressure: bool = False, stat: bool = False, governor: str | None = None) -> Path:
    files = {
        "proc/pressure/cpu": "some avg10=0.82 avg60=1.77 avg300=1.34 total=2500000\n" if pressure else None,
        "proc/stat": STAT if stat else None,
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": governor,
    }
    for path, text in files.items():
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("pressure", "stat", "words"),
    [
        (True, True, "CPU pressure can be read"),
        (True, False, "CPU pressure can be read"),
        (False, True, "judged by steal time"),
        (False, False, "neither CPU pressure nor steal time"),
    ],
)
def test_contention(pressure: bool, stat: bool, words: str, tmp_path: Path) -> None:
    found = read_measuring(NONE_INSTALLED, machine(tmp_path, pressure=pressure, stat=stat))
    assert (found.pressure, found.steal) == (pressure, stat)
    assert words in found.lines()[0]


@pytest.mark.parametrize(
    ("governor", "words"),
    [("performance\n", "governor performance"), ("powersave\n", "does not fix it"), (None, "cannot be read")],
)
def test_clock(governor: str | None, words: str, tmp_path: Path) -> None:
    found = read_measuring(NONE_INSTALLED, machine(tmp_path, governor=governor))
    assert found.governor == (governor or "unknown").strip()
    assert words in found.lines()[1]


@pytest.mark.parametrize("library", ["libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll", None])
def test_cuda(library: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the provider's library, for ONNX Runtime is not imported."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_shared.so").touch()
    if library:
        (tmp_path / "capi" / library).touch()
    spec = ModuleSpec("onnxruntime", None, origin="__init__.py", is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(measuring, "find_spec", lambda name: spec)
    here = NONE_INSTALLED | {"onnxruntime": Package("onnxruntime", "1.31.1")}
    found = read_measuring(here, tmp_path)
    assert found.cuda is (library is not None)
    line = found.lines()[2]
    if library:
        assert (found.cuda_commands, "--provider cuda" in line) == ((), True)
    else:
        assert found.cuda_commands == ("pip uninstall --yes onnxruntime", "pip install onnxruntime-gpu")
        assert line.endswith("run: pip uninstall --yes onnxruntime && pip install onnxruntime-gpu")


def test_without_any_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    found = read_measuring(NONE_INSTALLED, tmp_path)
    assert (found.cuda, found.cuda_commands) == (False, ("pip install onnxruntime-gpu",))


def test_as_dict_and_in_the_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    written = json.loads(json.dumps(Measuring(True, False, "powersave", False, ("a", "b")).to_dict()))
    assert written == {
        "cpu_pressure_readable": True,
        "steal_readable": False,
        "governor": "powersave",
        "cuda_provider": False,
        "cuda_commands": ["a", "b"],
    }
    diagnosis = pretend(monkeypatch, RUNNING)
    assert diagnosis.to_dict()["bench"] == diagnosis.measuring.to_dict()
    assert diagnosis.measuring.lines()[1] in diagnosis.report()
