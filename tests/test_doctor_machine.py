"""Every way in which a limit on the CPUs is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from debiexport.doctor import diagnose, machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without limits; a test writes the files of one with limits."""
    monkeypatch.setattr(machine, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "self")
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
    assert machine._cgroup_cpus() == limit


def test_machine_with_limits(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cgroup / "cpu.max", "150000 100000")
    for name in machine.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    found = diagnose().machine
    assert (found.cpus, found.affinity, found.cgroup_cpus) == (8, 4, 1.5)
    assert str(found).endswith(", 8 CPUs, 4 usable, limited to 1.5 by the cgroup, OMP_NUM_THREADS=2")


def test_machine_that_tells_nothing(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert str(diagnose().machine).endswith(", an unknown number of CPUs, no thread variable set")
