"""debiexport.doctor: every state a package can be in, every ability, every conflict, every way a limit is written."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from debiexport import doctor
from debiexport.doctor import Ability, Diagnosis, Package, diagnose

REPOSITORY = Path(__file__).parents[1]
RUNNING = {
    "debiexport": "0.1.0",
    "numpy": "2.3.5",
    "onnx": "1.23.2",
    "onnxruntime": "1.31.1",
    "pillow": "13.0.0",
    "typer": "0.29.2",
    "rich": "15.0.0",
}
EXPORTING = {**RUNNING, "torch": "2.13.0+cpu", "onnxscript": "0.7.2", "safetensors": "0.8.0"}


def pretend(
    monkeypatch: pytest.MonkeyPatch, installed: Mapping[str, str | None], without_module: tuple[str, ...] = ()
) -> Diagnosis:
    """Diagnose as if exactly `installed` were there, and the modules `without_module` were not."""

    def version(name: str) -> str | None:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    def requires(name: str) -> list[str]:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return ["numpy>=1.26", "onnxruntime>=1.22", 'torch>=2.9; extra == "export"', "debiexport[export]", "rich"]

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name in without_module else ModuleSpec(name, None, origin=f"{name}.py")

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", requires)
    monkeypatch.setattr(doctor, "find_spec", find_spec)
    return diagnose()


def ability(diagnosis: Diagnosis, name: str) -> Ability:
    return next(a for a in diagnosis.abilities if a.name == name)


def package(diagnosis: Diagnosis, name: str) -> Package:
    return next(p for p in diagnosis.packages if p.name == name)


# --------------------------------------------------------------------------------------- packages and abilities


def test_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, EXPORTING)
    assert diagnosis.healthy
    assert [str(a) for a in diagnosis.abilities] == [
        "export to ONNX: ok",
        "check in full: ok",
        "check without torch: ok",
        "predict: ok",
    ]
    assert str(diagnosis) == "4 of 4 abilities ok, 0 packages broken, 0 conflicts"
    assert str(package(diagnosis, "torch")) == "torch 2.13.0+cpu"
    assert str(package(diagnosis, "tensorrt")) == "tensorrt: not installed"


def test_without_torch_running_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING)
    assert diagnosis.healthy
    assert {a.name for a in diagnosis.abilities if a.ok} == {"check without torch", "predict"}
    export = ability(diagnosis, "export to ONNX")
    assert export.reasons == ("torch is not installed", "onnxscript is not installed", "safetensors is not installed")
    assert export.commands == ("pip install 'debiexport[export]'",)
    assert export.note == doctor.TORCH_NOTE
    assert str(export) == (
        "export to ONNX: blocked, torch is not installed, onnxscript is not installed, safetensors is not installed;"
        f" run: pip install 'debiexport[export]' ({doctor.TORCH_NOTE})"
    )


def test_only_torch_brings_the_note_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    export = ability(pretend(monkeypatch, {k: v for k, v in EXPORTING.items() if k != "onnxscript"}), "export to ONNX")
    assert export.note is None
    assert str(export) == "export to ONNX: blocked, onnxscript is not installed; run: pip install 'debiexport[export]'"


def test_a_missing_core_package_blocks_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, {k: v for k, v in EXPORTING.items() if k != "onnxruntime"})
    assert not any(a.ok for a in diagnosis.abilities)
    assert ability(diagnosis, "predict").commands == ("pip install debiexport",)
    assert ability(diagnosis, "export to ONNX").commands == ("pip install 'debiexport[export]'",)


def test_another_build_of_onnxruntime_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {k: v for k, v in RUNNING.items() if k != "onnxruntime"} | {"onnxruntime-gpu": "1.31.1"}
    assert ability(pretend(monkeypatch, installed), "predict").ok


def test_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, EXPORTING | {"torch": "2.8.1"})
    export = ability(diagnosis, "export to ONNX")
    assert export.reasons == ("torch is 2.8.1, 2.9 or newer is needed",)
    assert export.commands == ("pip install 'debiexport[export]'",)
    assert export.note == doctor.TORCH_NOTE
    assert diagnosis.healthy


def test_no_minimum_is_known_where_debiexport_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {k: v for k, v in EXPORTING.items() if k != "debiexport"} | {"torch": "2.8.1"}
    assert ability(pretend(monkeypatch, installed), "export to ONNX").ok


def test_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING, without_module=("onnxruntime",))
    assert not diagnosis.healthy
    assert [p.name for p in diagnosis.broken] == ["onnxruntime"]
    command = "pip install --force-reinstall --no-deps onnxruntime==1.31.1"
    assert str(diagnosis.broken[0]) == (
        f"onnxruntime 1.31.1: broken, its module onnxruntime is not there; run: {command}"
    )
    assert str(ability(diagnosis, "predict")) == f"predict: blocked, onnxruntime is broken; run: {command}"
    # What is missing is installed first: pip would otherwise take the broken package for a good one.
    assert ability(diagnosis, "check in full").commands == ("pip install 'debiexport[export]'", command)


@pytest.mark.parametrize("exception", [None, KeyError("Version")])
def test_metadata_without_a_version(monkeypatch: pytest.MonkeyPatch, exception: Exception | None) -> None:
    pretend(monkeypatch, RUNNING)

    def version(name: str) -> str | None:
        if exception is not None:
            raise exception
        return None

    monkeypatch.setattr(metadata, "version", version)
    found = package(diagnose(), "rich")
    assert str(found) == "rich of unknown version"
    assert found.reinstall == "pip install --force-reinstall --no-deps rich"


def test_a_module_is_found_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole_package_here").mkdir()
    (tmp_path / "whole_package_here" / "__init__.py").touch()
    (tmp_path / "leftover_folder_here" / "__pycache__").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert doctor._has_module("whole_package_here")
    assert not doctor._has_module("leftover_folder_here")
    assert not doctor._has_module("no_such_package_here")
    assert not doctor._has_module("no_such_package_here.child")


def test_a_module_imported_without_a_spec_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "module_without_spec", type(sys)("module_without_spec"))
    assert doctor._has_module("module_without_spec")


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9", "2.13.0+cpu"), ("1.9.9", "1.10"), ("2.3.5", "2.4.0rc1"), ("of unknown version", "0.1")]
)
def test_order_of_versions(older: str, newer: str) -> None:
    assert doctor._release(older) < doctor._release(newer)


def test_equal_versions() -> None:
    assert doctor._release("2.9") == doctor._release("2.9.0")


# --------------------------------------------------------------------------------------- conflicts


def test_two_builds_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING | {"onnxruntime-gpu": "1.30.0"})
    assert not diagnosis.healthy
    (conflict,) = diagnosis.conflicts
    uninstall = "pip uninstall --yes onnxruntime onnxruntime-gpu"
    assert [remedy.commands for remedy in conflict.remedies] == [
        (uninstall, "pip install onnxruntime==1.31.1"),
        (uninstall, "pip install onnxruntime-gpu==1.30.0"),
    ]
    assert str(conflict) == (
        "onnxruntime 1.31.1 beside onnxruntime-gpu 1.30.0: they write the same folder, so one has overwritten files of"
        f" the other; to run on the CPU, run: {uninstall} && pip install onnxruntime==1.31.1;"
        f" to run on an NVIDIA GPU, run: {uninstall} && pip install onnxruntime-gpu==1.30.0"
    )


@pytest.mark.parametrize(
    ("numpy", "coremltools", "conflicts"),
    [("2.4.0", "9.0", 1), ("2.10.1", "8.3", 1), ("2.3.5", "9.0", 0), ("2.4.0", "10.0", 0), ("2.4.0", None, 0)],
)
def test_numpy_beside_coremltools(
    monkeypatch: pytest.MonkeyPatch, numpy: str, coremltools: str | None, conflicts: int
) -> None:
    installed = RUNNING | {"numpy": numpy}
    if coremltools:
        installed["coremltools"] = coremltools
    diagnosis = pretend(monkeypatch, installed)
    assert len(diagnosis.conflicts) == conflicts
    if conflicts:
        assert str(diagnosis.conflicts[0]) == (
            f"coremltools {coremltools} beside numpy {numpy}: coremltools 9 fails with numpy 2.4 and newer;"
            " to keep coremltools, run: pip install 'numpy<2.4'"
        )


def test_without_numpy_there_is_no_conflict_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pretend(monkeypatch, {"coremltools": "9.0"}).conflicts


# --------------------------------------------------------------------------------------- machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without limits; a test writes the files of one with limits."""
    monkeypatch.setattr(doctor, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(doctor, "_OWN_CGROUP", tmp_path / "self")
    return tmp_path


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "garbage"}, None),
        ({"cpu.max": "100000 0"}, None),
        ({"cpu.max": "\u00e4"}, None),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
        ({"self": "nonsense\n4:cpu:/a\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_limit_of_the_cgroup(cgroup: Path, files: Mapping[str, str], limit: float | None) -> None:
    for name, content in files.items():
        write(cgroup / name, content)
    assert doctor._cgroup_cpus() == limit


def test_machine_with_limits(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cgroup / "cpu.max", "150000 100000")
    for name in doctor.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    machine = diagnose().machine
    assert (machine.cpus, machine.affinity, machine.cgroup_cpus) == (8, 4, 1.5)
    assert str(machine).endswith(", 8 CPUs, 4 usable, limited to 1.5 by the cgroup, OMP_NUM_THREADS=2")


def test_machine_that_tells_nothing(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert str(diagnose().machine).endswith(", an unknown number of CPUs, no thread variable set")


# --------------------------------------------------------------------------------------- the whole


def test_to_dict_is_json_and_every_line_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING | {"onnxruntime-gpu": "1.30.0"}, without_module=("rich",))
    written = json.loads(json.dumps(diagnosis.to_dict()))
    assert written["healthy"] is False
    assert written["abilities"][0]["ok"] is False
    assert written["conflicts"][0]["remedies"][0]["commands"][1] == "pip install onnxruntime==1.31.1"
    assert written["packages"][0] == {"name": "debiexport", "version": "0.1.0", "missing_module": None}
    assert set(written["machine"]) >= {"python", "cpus", "affinity", "cgroup_cpus", "thread_variables"}
    parts = [diagnosis, diagnosis.machine, *diagnosis.packages, *diagnosis.abilities, *diagnosis.conflicts]
    assert all(str(part) and "\n" not in str(part) for part in parts)


def test_report(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Conflicts" not in pretend(monkeypatch, RUNNING).report()
    diagnosis = pretend(monkeypatch, RUNNING | {"onnxruntime-gpu": "1.30.0"}, without_module=("rich",))
    lines = [line.strip() for line in diagnosis.report().splitlines()]
    parts = [diagnosis.machine, *diagnosis.packages, *diagnosis.abilities, *diagnosis.conflicts, diagnosis]
    headings = {"", "Packages", "What can be done here", "Conflicts"}
    assert [line for line in lines if line not in headings] == [str(part) for part in parts]


def test_tables_agree_with_each_other_and_with_pyproject() -> None:
    """An ability needs no package that the table of packages lacks, or that its extra does not bring."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    core = {Requirement(r).name for r in project["dependencies"]}
    assert core == set(doctor.CORE)
    for need in doctor.ABILITIES:
        extra = project["optional-dependencies"][need.extra] if need.extra else []
        assert set(need.packages) <= core | {Requirement(r).name for r in extra}
        assert set(need.packages) <= set(doctor.PACKAGES)


def test_diagnosing_imports_nothing_heavy() -> None:
    program = (
        "import sys; from debiexport.doctor import diagnose; d = diagnose();"
        "assert d.packages[0].works, d.packages[0];"
        "print({'numpy', 'onnx', 'onnxruntime', 'torch', 'sklearn', 'google.protobuf'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
