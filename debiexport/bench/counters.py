"""Counters of the system that tell what else wants the CPUs; what cannot be read is None."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Snapshot:
    """One look at the counters; None for what cannot be read.

    Attributes:
        seconds: a clock that only runs forward.
        pressure_s: seconds since boot in which some process waited for a CPU.
        steal_ticks, total_ticks: of all CPUs since boot.
        load: processes that want to run, mean of the last minute.
        switches: involuntary context switches of this process.
    """

    seconds: float
    pressure_s: float | None
    steal_ticks: int | None
    total_ticks: int | None
    load: float | None
    switches: int | None


def take_snapshot(proc: Path = Path("/proc")) -> Snapshot:
    """Read the counters."""
    steal, total = _ticks(proc)
    return Snapshot(time.monotonic(), _pressure(proc), steal, total, _load(), _switches())


def _pressure(proc: Path) -> float | None:
    """`some avg10=0.82 … total=1012647579`, in microseconds."""
    try:
        for line in (proc / "pressure" / "cpu").read_text().splitlines():
            if line.startswith("some "):
                return int(line.rsplit("total=", 1)[1]) / 1e6
    except (OSError, ValueError, IndexError):
        pass
    return None


def _ticks(proc: Path) -> tuple[int | None, int | None]:
    """Steal and all ticks; `cpu  user nice system idle iowait irq softirq steal guest guest_nice`."""
    try:
        fields = (proc / "stat").read_text().splitlines()[0].split()
        ticks = [int(field) for field in fields[1:9]]  # guest time is in user time already
        if fields[0] == "cpu" and len(ticks) == 8:
            return ticks[7], sum(ticks)
    except (OSError, ValueError, IndexError):
        pass
    return None, None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # not on Windows
        return None


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
