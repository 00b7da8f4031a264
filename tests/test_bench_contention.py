"""Evidence of contention from files that look like the system's, and the machine's description."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from debiexport import environment
from debiexport.bench import counters
from debiexport.bench.contention import compare
from debiexport.bench.counters import Snapshot, take_snapshot
from debiexport.environment import describe_environment

QUIET = Snapshot(100.0, 50.0, 1000, 200_000, 0.5, 300)


def after(**changes: float) -> Snapshot:
    base = {"seconds": 110.0, "pressure_s": 50.2, "steal_ticks": 1002, "total_ticks": 202_000, "load": 0.9}
    return Snapshot(**{**base, "switches": 320, **changes})  # type: ignore[arg-type]


def proc(folder: Path, stat: str, pressure: str | None) -> Path:
    (folder / "pressure").mkdir()
    (folder / "stat").write_text(stat)
    if pressure is not None:
        (folder / "pressure" / "cpu").write_text(pressure)
    return folder


def test_a_quiet_machine() -> None:
    found = compare(QUIET, after(), cpus=2)
    assert found.verdict == "quiet"
    assert found.pressure == pytest.approx(0.02)
    assert found.steal == pytest.approx(0.001)
    assert found.switches_per_s == pytest.approx(2.0)
    assert (found.load_before, found.load_after) == (0.5, 0.9)
    assert str(found).startswith("quiet (CPU pressure 2.0%, steal 0.1%, load before 0.50, after 0.90")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pressure_s": 52.0}, "CPU pressure 20.0%, the limit is 10.0%"),
        ({"steal_ticks": 1100}, "steal time 5.0%, the limit is 2.0%"),
        ({"load": 4.0}, "load per CPU 2.00, the limit is 1.50"),
        ({"switches": 9300}, "involuntary context switches a second 900, the limit is 200"),
    ],
)
def test_each_limit(changes: dict[str, float], words: str) -> None:
    found = compare(QUIET, after(**changes), cpus=2)
    assert found.verdict == "contended"
    assert found.reasons == (words,)
    assert found.to_dict()["verdict"] == "contended"


def test_what_cannot_be_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_load", lambda: None)
    monkeypatch.setattr(counters, "_switches", lambda: None)
    nothing = take_snapshot(tmp_path)
    assert (nothing.pressure_s, nothing.steal_ticks, nothing.load) == (None, None, None)
    found = compare(nothing, nothing, cpus=None)
    assert found.verdict == "unknown"
    assert "CPU pressure unknown" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_files_of_the_system(tmp_path: Path) -> None:
    stat = "cpu  10 20 30 400 5 0 6 7 99 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"
    pressure = "some avg10=0.82 avg60=1.77 avg300=1.34 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    snapshot = take_snapshot(proc(tmp_path, stat, pressure))
    assert snapshot.pressure_s == 2.5
    assert (snapshot.steal_ticks, snapshot.total_ticks) == (7, 478)


@pytest.mark.parametrize("stat", ["", "cpu", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"])
def test_broken_files_are_unreadable(tmp_path: Path, stat: str) -> None:
    snapshot = take_snapshot(proc(tmp_path, stat, "some avg10=x\n"))
    assert (snapshot.pressure_s, snapshot.steal_ticks, snapshot.total_ticks) == (None, None, None)


# --------------------------------------------------------------------------------------- the machine


def machine(root: Path, flags: str = "fpu avx2 fma avx512f amx_tile hypervisor") -> Path:
    for path, text in (
        ("proc/cpuinfo", f"processor : 0\nmodel name : Fast CPU: mark 2\nflags : {flags}\n\nmodel name : other\n"),
        ("proc/meminfo", "MemFree: 1 kB\nMemTotal:  2048 kB\n"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_machine_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "H100, 570.1, 1980 MHz, 1980 MHz, 700.00 W, 0x0000000000000000"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=row + "\n"))
    found = describe_environment(machine(tmp_path))
    assert (found.cpu, found.governor, found.hypervisor) == ("Fast CPU: mark 2", "powersave", "present (QEMU)")
    assert found.instruction_sets == ("avx2", "fma", "avx512f", "amx_tile")
    assert found.memory_bytes == 2048 * 1024
    assert found.gpus is not None
    assert found.gpus[0]["name"] == "H100"
    assert found.gpus[0]["power.limit"] == "700.00 W"
    assert "numpy" in found.packages
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_unreadable_machine_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*a: object, **k: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    found = describe_environment(tmp_path)
    assert (found.cpu, found.governor, found.hypervisor) == ("unknown", "unknown", "unknown")
    assert (found.instruction_sets, found.memory_bytes, found.gpus) == (None, None, None)
    assert "unknown" in str(found)


def test_a_machine_without_hypervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    assert describe_environment(machine(tmp_path, "avx2")).hypervisor == "none"
