"""What debiexport does, and whether it can be done here."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        reasons: one for each package in the way, and for the system; empty if it can be done.
        commands: what to run, in this order, so that it can be done; none where only another system helps.
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
        text = f"{self.name}: blocked, {', '.join(self.reasons)}"
        if self.commands:
            text += f"; run: {' && '.join(self.commands)}"
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class Need:
    """A line of `ABILITIES`.

    Attributes:
        name: of the ability.
        packages: that it takes.
        extra: of debiexport, with commas, that brings them.
        below: the first version of a package that is too new, by package.
        system: that it takes, as `platform.system` names it; None for any.
        gpu: whether it takes an NVIDIA GPU.
    """

    name: str
    packages: tuple[str, ...]
    extra: str | None = None
    below: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    gpu: bool = False


MACOS = "Darwin"
TYPED = ("torch", "onnxscript", "safetensors", "onnx-graphsurgeon")
TOO_NEW_FOR_COREML = {"numpy": "2.4"}  # coremltools 9 fails with it

ABILITIES = (
    Need("export to ONNX", (*CORE, "torch", "onnxscript", "safetensors"), "export"),
    Need("check in full", (*CORE, "torch", "safetensors"), "export"),
    Need("check without torch", CORE),
    Need("predict", CORE),
    Need("bench", CORE),
    Need("bench against plain", (*CORE, "torch", "onnxscript", "safetensors"), "export"),
    Need("bench against eager", (*CORE, "torch", "safetensors"), "export"),
    Need("bench against openvino", (*CORE, "torch", "onnxscript", "safetensors", "openvino"), "export,openvino"),
    Need("export to Core ML", (*CORE, "torch", "safetensors", "coremltools"), "coreml", TOO_NEW_FOR_COREML),
    Need("check a Core ML bundle", (*CORE, "torch", "coremltools"), "coreml", TOO_NEW_FOR_COREML),
    Need("bench Core ML", (*CORE, "coremltools"), "coreml", TOO_NEW_FOR_COREML, MACOS),
    Need("export to TensorRT", (*CORE, *TYPED), "tensorrt"),
    Need("check a TensorRT bundle", (*CORE, "torch"), "export"),
    Need("build with TensorRT for RTX", (*CORE, *TYPED, "tensorrt-rtx"), "rtx"),
    Need("build and bench TensorRT engines", (*CORE, *TYPED, "tensorrt", "cuda-bindings"), "tensorrt", gpu=True),
    Need("serve", (*CORE, "starlette", "uvicorn", "httptools", "grpcio", "tritonclient"), "serve"),
    Need("write Triton repositories", (*CORE, "tritonclient"), "serve"),
)


def no_gpu() -> str | None:
    """Why no NVIDIA GPU can be used here; None if one can."""
    from debiexport.errors import DebiexportError
    from debiexport.runtimes.cuda import require_gpu

    try:
        require_gpu("building engines")
    except DebiexportError as error:
        return str(error).partition(": ")[0]
    return None


def judge_ability(need: Need, packages: Mapping[str, Package], minimums: Mapping[str, str]) -> Ability:
    """Whether every package of `need` is there, whole and of a version that fits, and the system the right one."""
    reasons: list[str] = []
    broken: list[str] = []
    lowered: list[str] = []
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
        elif name in need.below and release(package.version) >= release(need.below[name]):
            reasons.append(f"{package.name} is {package.version}, one below {need.below[name]} is needed")
            lowered.append(f"pip install '{name}<{need.below[name]}'")
    here = platform.system()
    if need.system is not None and here != need.system:
        reasons.append(f"this is {here or 'an unknown system'}, and Core ML runs on macOS only")
    if need.gpu and not wanting and (told := no_gpu()) is not None:
        reasons.append(told)
    install = f"pip install 'debiexport[{need.extra}]'" if need.extra else "pip install debiexport"
    return Ability(
        need.name,
        tuple(reasons),
        ((install,) if wanting else ()) + tuple(lowered) + tuple(broken),
        TORCH_NOTE if "torch" in wanting else None,
    )


def _ort_build(packages: Mapping[str, Package]) -> Package:
    """The build of ONNX Runtime that is here, or the plain one if none is."""
    return next((packages[name] for name in ORT_BUILDS if packages[name].installed), packages["onnxruntime"])
