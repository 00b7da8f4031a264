"""The machine that something was measured on: what has to stand beside a latency for it to mean anything.

Everything is read, nothing is set, and what cannot be read is "unknown". No name of the machine or of its
user is read.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from debiexport.errors import UsageError

UNKNOWN = "unknown"
THREADS_PER_CPU = 4
PACKAGES = ("debiexport", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "torch")
# Those that the kernels of the runtimes ask for.
INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit", "clocks_throttle_reasons.active")


@dataclass(frozen=True)
class Environment:
    """A machine and its software; "unknown" (or None for a number) where it does not tell.

    Attributes:
        cpu: model name.
        instruction_sets: those of `INSTRUCTION_SETS` that the CPU has; None where unreadable.
        governor: of the CPU's clock.
        hypervisor: "none", or what is known of it.
        cpus, usable_cpus: logical CPUs of the machine, and those this process may run on.
        memory_bytes: of the machine.
        system: operating system and architecture.
        python: version.
        packages: version by package, of those installed.
        gpus: what nvidia-smi says of each GPU, by field; None where there is no nvidia-smi.
    """

    cpu: str
    instruction_sets: tuple[str, ...] | None
    governor: str
    hypervisor: str
    cpus: int | None
    usable_cpus: int | None
    memory_bytes: int | None
    system: str
    python: str
    packages: dict[str, str]
    gpus: tuple[dict[str, str], ...] | None

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        data["instruction_sets"] = None if self.instruction_sets is None else list(self.instruction_sets)
        data["gpus"] = None if self.gpus is None else list(self.gpus)
        return data

    def __str__(self) -> str:
        memory = UNKNOWN if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB"
        sets = [UNKNOWN] if self.instruction_sets is None else [s for s in self.instruction_sets if s in _TELLING]
        return (
            f"{self.cpu}, {self.usable_cpus or UNKNOWN} of {self.cpus or UNKNOWN} CPUs, {memory},"
            f" {' '.join(sets) or 'no vector extensions'}; governor {self.governor}, hypervisor {self.hypervisor};"
            f" {self.system}, Python {self.python}"
        )


_TELLING = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve")


def describe_environment(root: Path = Path("/")) -> Environment:
    """Read this machine.

    Args:
        root: where proc and sys are found.
    """
    cpuinfo = _cpuinfo(root / "proc/cpuinfo")
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features") or "").split()
    return Environment(
        cpu=cpuinfo.get("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or UNKNOWN,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags) if flags else None,
        governor=read_governor(root),
        hypervisor=_hypervisor(root, flags),
        cpus=os.cpu_count(),
        usable_cpus=usable_cpus(),
        memory_bytes=_memory(root / "proc/meminfo"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=package_versions(),
        gpus=_gpus(),
    )


def read_governor(root: Path = Path("/")) -> str:
    """The governor of the first CPU's clock."""
    return _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or UNKNOWN


def usable_cpus() -> int | None:
    """CPUs that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on macOS
        return os.cpu_count()


def check_threads(threads: int | None) -> int | None:
    """The number of threads, if it makes sense here; None leaves it to a runtime.

    Threads of a runtime wait by spinning: hundreds of them on a few CPUs stall the machine.

    Raises:
        UsageError: fewer than one, or more than `THREADS_PER_CPU` for every CPU.
    """
    most = THREADS_PER_CPU * (usable_cpus() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise UsageError(f"--threads is {threads}: give at least 1, and at most {most} on this machine")
    return threads


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Version of each package that is installed; nothing is imported."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name) or UNKNOWN
        except (metadata.PackageNotFoundError, KeyError):
            continue
    return found


def _cpuinfo(path: Path) -> dict[str, str]:
    """The first CPU's entries."""
    entries: dict[str, str] = {}
    for line in (_read(path) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            entries.setdefault(key.strip(), value.strip())
    return entries


def _hypervisor(root: Path, flags: Sequence[str]) -> str:
    told = _read(root / "sys/hypervisor/type") or _read(root / "sys/class/dmi/id/sys_vendor")
    if "hypervisor" in flags:
        return f"present ({told})" if told else "present"
    return "none" if flags and platform.machine() in ("x86_64", "AMD64") else UNKNOWN


def _memory(path: Path) -> int | None:
    for line in (_read(path) or "").splitlines():
        fields = line.split()
        if fields[:1] == ["MemTotal:"] and len(fields) == 3 and fields[1].isdigit():
            return int(fields[1]) * 1024
    size = _sysctl("hw.memsize")
    return int(size) if size and size.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _sysctl(name: str) -> str | None:
    """A value of the system's, on macOS."""
    return _output(["sysctl", "-n", name]) if sys.platform == "darwin" else None


def _gpus() -> tuple[dict[str, str], ...] | None:
    text = _output(["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"])
    if text is None:
        return None
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    return tuple(dict(zip(GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(GPU_FIELDS))


def _output(command: list[str]) -> str | None:
    """What a command prints; None if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
