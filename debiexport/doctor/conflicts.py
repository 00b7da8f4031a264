"""Packages that do not go together, and every way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from debiexport.doctor.packages import ORT_BUILDS, Package, name_and_version, release


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


def _two_ort_builds(packages: Mapping[str, Package]) -> Conflict | None:
    here = [packages[name] for name in ORT_BUILDS if packages[name].installed]
    if len(here) < 2:
        return None
    # Both have to go first: uninstalling either one takes files away that the other needs.
    uninstall = f"pip uninstall --yes {' '.join(package.name for package in here)}"
    aims = {"onnxruntime": "to run on the CPU", "onnxruntime-gpu": "to run on an NVIDIA GPU"}
    return Conflict(
        tuple(map(name_and_version, here)),
        "they write the same folder, so one has overwritten files of the other",
        tuple(Remedy(aims[p.name], (uninstall, f"pip install {p.requirement}")) for p in here),
    )


def _numpy_for_coremltools(packages: Mapping[str, Package]) -> Conflict | None:
    numpy, coremltools = packages["numpy"], packages["coremltools"]
    if numpy.version is None or coremltools.version is None:
        return None
    if release(numpy.version) < (2, 4) or release(coremltools.version) >= (10,):
        return None
    return Conflict(
        (name_and_version(coremltools), name_and_version(numpy)),
        "coremltools 9 fails with numpy 2.4 and newer",
        (Remedy("to keep coremltools", ("pip install 'numpy<2.4'",)),),
    )


CONFLICTS: tuple[Callable[[Mapping[str, Package]], Conflict | None], ...] = (_two_ort_builds, _numpy_for_coremltools)
