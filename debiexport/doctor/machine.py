"""Python, the system, and how many CPUs a process gets."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Machine:
    """Python, the system, and how many CPUs a process gets; None where that cannot be read.

    Attributes:
        cpus: logical CPUs of the machine.
        affinity: CPUs that this process may be scheduled on.
        cgroup_cpus: CPUs' worth of time that the cgroup (a container's limit) grants.
        thread_variables: the variables of `THREAD_VARIABLES` that are set.
    """

    python: str
    platform: str
    cpus: int | None
    affinity: int | None
    cgroup_cpus: float | None
    thread_variables: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "thread_variables": dict(self.thread_variables)}

    def __str__(self) -> str:
        parts = [f"Python {self.python} on {self.platform}", f"{_or_unknown(self.cpus)} CPUs"]
        if self.affinity is not None:
            parts.append(f"{self.affinity} usable")
        if self.cgroup_cpus is not None:
            parts.append(f"limited to {self.cgroup_cpus:g} by the cgroup")
        parts += [f"{name}={value}" for name, value in self.thread_variables.items()] or ["no thread variable set"]
        return ", ".join(parts)


def read_machine() -> Machine:
    """Look at this machine; nothing is written."""
    return Machine(
        python=platform.python_version(),
        platform=platform.platform(),
        cpus=os.cpu_count(),
        affinity=_affinity(),
        cgroup_cpus=_cgroup_cpus(),
        thread_variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    )


def _affinity() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on macOS
        return None


def _cgroup_cpus() -> float | None:
    """The tightest limit on the way from this process's cgroup up to the root; None without one.

    Version 2 keeps "QUOTA PERIOD" in `cpu.max`, QUOTA being "max" for none; version 1 keeps two files, a quota of -1
    for none. In a container the root of the mount is usually the container's own cgroup.
    """
    limits = []
    for folder in _cgroup_folders():
        for quota, period in (_read_v2(folder), _read_v1(folder)):
            if quota > 0 and period > 0:
                limits.append(quota / period)
    return min(limits, default=None)


def _cgroup_folders() -> list[Path]:
    folders = [_CGROUP_ROOT, _CGROUP_ROOT / "cpu"]
    for line in _read(_OWN_CGROUP).splitlines():
        hierarchy, _, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        if hierarchy == "0":
            own = _CGROUP_ROOT / path.lstrip("/")
            folders += [own, *(parent for parent in own.parents if _CGROUP_ROOT in parent.parents)]
    return folders


def _read_v2(folder: Path) -> tuple[int, int]:
    return _integers(_read(folder / "cpu.max").split())


def _read_v1(folder: Path) -> tuple[int, int]:
    return _integers([_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")])


def _integers(words: list[str]) -> tuple[int, int]:
    """Quota and period, or (0, 0) where there is no limit to be read."""
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return 0, 0
    return int(words[0]), int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _or_unknown(value: int | None) -> str:
    return "an unknown number of" if value is None else str(value)
