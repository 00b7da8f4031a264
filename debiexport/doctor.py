"""What is installed here, what can be done with it, and the commands that mend the rest.

Nothing heavy is imported: versions come from the packages' metadata, and a package counts as broken when its metadata
is there but its module is not. A package whose files are there but fail while they are imported is not found out.

To report on one more target, add its line to `ABILITIES`, and its packages to `PACKAGES`.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Distribution -> a module that it must bring. In the order of the report.
PACKAGES: Mapping[str, str] = {
    "debiexport": "debiexport",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "protobuf": "google.protobuf",
    "pillow": "PIL",
    "typer": "typer",
    "rich": "rich",
    "torch": "torch",
    "onnxscript": "onnxscript",
    "onnx-ir": "onnx_ir",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "coremltools": "coremltools",
    "onnx-graphsurgeon": "onnx_graphsurgeon",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "tritonclient": "tritonclient",
    "openvino": "openvino",
}

CORE = ("numpy", "onnx", "onnxruntime", "pillow", "typer", "rich")
# Every one of these brings the module `onnxruntime`.
ORT_BUILDS = ("onnxruntime", "onnxruntime-gpu")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TORCH_NOTE = (
    "on Linux pip usually takes a torch with gigabytes of CUDA packages; where no GPU is to be used, install torch"
    " first, with the command that pytorch.org shows under Start locally for Pip and CPU"
)

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


# --------------------------------------------------------------------------------------- what is reported


@dataclass(frozen=True)
class Package:
    """One distribution. `version` is None where it is not installed, `missing_module` names what a broken one lacks."""

    name: str
    version: str | None
    missing_module: str | None = None

    @property
    def installed(self) -> bool:
        return self.version is not None

    @property
    def works(self) -> bool:
        return self.installed and self.missing_module is None

    @property
    def requirement(self) -> str:
        """What to give to pip for the same version again."""
        return f"{self.name}=={self.version}" if self.version and _release(self.version) else self.name

    @property
    def reinstall(self) -> str:
        """The command that puts a broken package's files back."""
        return f"pip install --force-reinstall --no-deps {self.requirement}"

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "missing_module": self.missing_module}

    def __str__(self) -> str:
        if not self.installed:
            return f"{self.name}: not installed"
        if self.missing_module:
            return (
                f"{self.name} {self.version}: broken, its module {self.missing_module} is not there;"
                f" run: {self.reinstall}"
            )
        return f"{self.name} {self.version}"


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


@dataclass(frozen=True)
class Ability:
    """Something debiexport does, and whether it can be done here.

    Attributes:
        reasons: one for each package in the way; empty if it can be done.
        commands: what to run, in this order, so that it can be done.
        note: what to know before running them.
    """

    name: str
    reasons: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    note: str | None = None

    @property
    def ok(self) -> bool:
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ok": self.ok,
            "reasons": list(self.reasons),
            "commands": list(self.commands),
            "note": self.note,
        }

    def __str__(self) -> str:
        if self.ok:
            return f"{self.name}: ok"
        text = f"{self.name}: blocked, {', '.join(self.reasons)}; run: {' && '.join(self.commands)}"
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class Remedy:
    """Commands, in order, that resolve a conflict; `aim` says which way they resolve it."""

    aim: str
    commands: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"aim": self.aim, "commands": list(self.commands)}

    def __str__(self) -> str:
        return f"{self.aim}, run: {' && '.join(self.commands)}"


@dataclass(frozen=True)
class Conflict:
    """Packages that do not go together, and every way out."""

    packages: tuple[str, ...]
    reason: str
    remedies: tuple[Remedy, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "packages": list(self.packages),
            "reason": self.reason,
            "remedies": [remedy.to_dict() for remedy in self.remedies],
        }

    def __str__(self) -> str:
        return "; ".join([f"{' beside '.join(self.packages)}: {self.reason}", *map(str, self.remedies)])


@dataclass(frozen=True)
class Diagnosis:
    """Everything `debiexport doctor` reports."""

    machine: Machine
    packages: tuple[Package, ...]
    abilities: tuple[Ability, ...]
    conflicts: tuple[Conflict, ...]

    @property
    def broken(self) -> tuple[Package, ...]:
        """Packages that are installed but have lost their files."""
        return tuple(package for package in self.packages if package.installed and not package.works)

    @property
    def healthy(self) -> bool:
        """Whether nothing that is installed has to be mended. What is merely not installed is no illness."""
        return not self.conflicts and not self.broken

    def to_dict(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "machine": self.machine.to_dict(),
            "packages": [package.to_dict() for package in self.packages],
            "abilities": [ability.to_dict() for ability in self.abilities],
            "conflicts": [conflict.to_dict() for conflict in self.conflicts],
        }

    def report(self) -> str:
        """The whole diagnosis for people, a line for each finding, the summary last."""
        lines = [str(self.machine), "", "Packages"]
        lines += [f"  {package}" for package in self.packages]
        lines += ["", "What can be done here"]
        lines += [f"  {ability}" for ability in self.abilities]
        if self.conflicts:
            lines += ["", "Conflicts"]
            lines += [f"  {conflict}" for conflict in self.conflicts]
        return "\n".join([*lines, "", str(self)])

    def __str__(self) -> str:
        possible = sum(ability.ok for ability in self.abilities)
        return (
            f"{possible} of {len(self.abilities)} abilities ok, {len(self.broken)} packages broken,"
            f" {len(self.conflicts)} conflicts"
        )


# --------------------------------------------------------------------------------------- what can be done


@dataclass(frozen=True)
class _Need:
    """A line of `ABILITIES`: what an ability takes, and the extra of debiexport that brings it."""

    name: str
    packages: tuple[str, ...]
    extra: str | None = None


ABILITIES = (
    _Need("export to ONNX", (*CORE, "torch", "onnxscript", "safetensors"), "export"),
    _Need("check in full", (*CORE, "torch", "safetensors"), "export"),
    _Need("check without torch", CORE),
    _Need("predict", CORE),
)


def _judge(need: _Need, packages: Mapping[str, Package], minimums: Mapping[str, str]) -> Ability:
    """Whether every package of `need` is there, whole and recent enough."""
    reasons: list[str] = []
    broken: list[str] = []
    wanting: list[str] = []  # absent or too old: pip's resolver deals with both
    for name in need.packages:
        package = _ort_build(packages) if name == "onnxruntime" else packages[name]
        minimum = minimums.get(name)
        if package.version is None:
            reasons.append(f"{name} is not installed")
            wanting.append(name)
        elif not package.works:
            reasons.append(f"{package.name} is broken")
            broken.append(package.reinstall)
        elif minimum and _release(package.version) < _release(minimum):
            reasons.append(f"{package.name} is {package.version}, {minimum} or newer is needed")
            wanting.append(name)
    install = f"pip install 'debiexport[{need.extra}]'" if need.extra else "pip install debiexport"
    return Ability(
        need.name,
        tuple(reasons),
        ((install,) if wanting else ()) + tuple(broken),
        TORCH_NOTE if "torch" in wanting else None,
    )


def _ort_build(packages: Mapping[str, Package]) -> Package:
    """The build of ONNX Runtime that is here, or the plain one if none is."""
    return next((packages[name] for name in ORT_BUILDS if packages[name].installed), packages["onnxruntime"])


# --------------------------------------------------------------------------------------- what does not go together


def _two_ort_builds(packages: Mapping[str, Package]) -> Conflict | None:
    here = [packages[name] for name in ORT_BUILDS if packages[name].installed]
    if len(here) < 2:
        return None
    # Both have to go first: uninstalling either one takes files away that the other needs.
    uninstall = f"pip uninstall --yes {' '.join(package.name for package in here)}"
    aims = {"onnxruntime": "to run on the CPU", "onnxruntime-gpu": "to run on an NVIDIA GPU"}
    return Conflict(
        tuple(map(_name_and_version, here)),
        "they write the same folder, so one has overwritten files of the other",
        tuple(Remedy(aims[p.name], (uninstall, f"pip install {p.requirement}")) for p in here),
    )


def _numpy_for_coremltools(packages: Mapping[str, Package]) -> Conflict | None:
    numpy, coremltools = packages["numpy"], packages["coremltools"]
    if numpy.version is None or coremltools.version is None:
        return None
    if _release(numpy.version) < (2, 4) or _release(coremltools.version) >= (10,):
        return None
    return Conflict(
        (_name_and_version(coremltools), _name_and_version(numpy)),
        "coremltools 9 fails with numpy 2.4 and newer",
        (Remedy("to keep coremltools", ("pip install 'numpy<2.4'",)),),
    )


CONFLICTS: tuple[Callable[[Mapping[str, Package]], Conflict | None], ...] = (_two_ort_builds, _numpy_for_coremltools)


# --------------------------------------------------------------------------------------- reading


def diagnose() -> Diagnosis:
    """Look at this Python environment and this machine. Imports no package and writes nothing."""
    packages = {name: _package(name, module) for name, module in PACKAGES.items()}
    minimums = _minimums()
    return Diagnosis(
        _machine(),
        tuple(packages.values()),
        tuple(_judge(need, packages, minimums) for need in ABILITIES),
        tuple(found for find in CONFLICTS if (found := find(packages)) is not None),
    )


def _package(name: str, module: str) -> Package:
    try:
        # Half-removed metadata has no version: None or KeyError, depending on the version of Python.
        version: str | None = metadata.version(name) or "of unknown version"
    except metadata.PackageNotFoundError:
        return Package(name, None)
    except KeyError:
        version = "of unknown version"
    return Package(name, version, None if _has_module(module) else module)


def _has_module(name: str) -> bool:
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # the parent of a dotted name
        return False
    except ValueError:  # already imported, by something that set no spec
        return True
    # What an uninstalled twin leaves behind, say a cache folder, looks like a namespace package: it has no file.
    return spec is not None and spec.origin is not None


def _minimums() -> dict[str, str]:
    """Package -> oldest version that debiexport's own metadata accepts; empty where it is not installed."""
    try:
        requirements = metadata.requires("debiexport") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement) for requirement in requirements)
    return {match[1].lower(): match[2] for match in found if match}


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: "2.13.0+cpu" is (2, 13). () where there are none."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _name_and_version(package: Package) -> str:
    return f"{package.name} {package.version}"


def _or_unknown(value: int | None) -> str:
    return "an unknown number of" if value is None else str(value)


def _machine() -> Machine:
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
