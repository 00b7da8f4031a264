"""What debiexport does, and whether it can be done here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from debiexport.doctor.packages import CORE, ORT_BUILDS, Package, release

TORCH_NOTE = (
    "on Linux pip usually takes a torch with gigabytes of CUDA packages; where no GPU is to be used, install torch"
    " first, with the command that pytorch.org shows under Start locally for Pip and CPU"
)


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
class Need:
    """A line of `ABILITIES`: what an ability takes, and the extras of debiexport, with commas, that bring it."""

    name: str
    packages: tuple[str, ...]
    extra: str | None = None


ABILITIES = (
    Need("export to ONNX", (*CORE, "torch", "onnxscript", "safetensors"), "export"),
    Need("check in full", (*CORE, "torch", "safetensors"), "export"),
    Need("check without torch", CORE),
    Need("predict", CORE),
    Need("bench", CORE),
    Need("bench against plain", (*CORE, "torch", "onnxscript", "safetensors"), "export"),
    Need("bench against eager", (*CORE, "torch", "safetensors"), "export"),
    Need("bench against openvino", (*CORE, "torch", "onnxscript", "safetensors", "openvino"), "export,openvino"),
)


def judge_ability(need: Need, packages: Mapping[str, Package], minimums: Mapping[str, str]) -> Ability:
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
        elif minimum and release(package.version) < release(minimum):
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
