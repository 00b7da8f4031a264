"""The whole diagnosis."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pretended import RUNNING, pretend

from debiexport.doctor.wrapping import WIDTH


def test_to_dict_is_json_and_every_line_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING | {"onnxruntime-gpu": "1.30.0"}, without_module=("rich",))
    written = json.loads(json.dumps(diagnosis.to_dict()))
    assert written["healthy"] is False
    assert written["abilities"][0]["ok"] is False
    assert written["conflicts"][0]["remedies"][0]["commands"][1] == "pip install onnxruntime==1.31.1"
    assert written["packages"][0] == {"name": "debiexport", "version": "0.1.0", "missing_module": None}
    assert set(written["bench"]) >= {"cpu_pressure_readable", "governor", "cuda_provider"}
    assert set(written["machine"]) >= {"python", "cpus", "affinity", "cgroup_cpus", "thread_variables"}
    parts = [diagnosis, diagnosis.machine, *diagnosis.packages, *diagnosis.abilities, *diagnosis.conflicts]
    parts += diagnosis.measuring.lines()
    assert all(str(part) and "\n" not in str(part) for part in parts)


def test_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every finding is there in full and in order, with lines that fit a terminal."""
    assert "Conflicts" not in pretend(monkeypatch, RUNNING).report()
    diagnosis = pretend(monkeypatch, RUNNING | {"onnxruntime-gpu": "1.30.0"}, without_module=("rich",))
    report = diagnosis.report()
    parts = [diagnosis.machine, *diagnosis.packages, "What can be done here", *diagnosis.abilities]
    parts += ["Measuring with bench", *diagnosis.measuring.lines(), "Conflicts", *diagnosis.conflicts, diagnosis]
    unwrapped = " ".join(report.split())
    places = [unwrapped.index(str(part)) for part in parts]
    assert places == sorted(places)
    assert max(map(len, report.splitlines())) <= WIDTH
    commands = [c for a in diagnosis.abilities for c in a.commands]
    commands += [c for conflict in diagnosis.conflicts for remedy in conflict.remedies for c in remedy.commands]
    assert len(commands) > 10
    assert all(command in report for command in commands), "a command that is wrapped cannot be copied"


def test_diagnosing_imports_nothing_heavy() -> None:
    program = (
        "import sys; from debiexport.doctor import diagnose; d = diagnose();"
        "assert d.packages[0].works, d.packages[0];"
        "print({'numpy', 'onnx', 'onnxruntime', 'torch', 'sklearn', 'google.protobuf'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
