"""What an engine is bound to, kept beside it and compared before TensorRT sees the engine.

An engine runs with the TensorRT that built it, on the GPU that it was built on. TensorRT tells little of an engine
that does not fit, and some of it only after minutes or as wrong results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from debiexport.errors import BundleError
from debiexport.runtimes.cuda import Gpu
from debiexport.targets.tensorrt.version import RTX, TENSORRT

NONE, AMPERE_PLUS, SAME_CAPABILITY = "none", "ampere_plus", "same_compute_capability"
COMPATIBILITIES = (NONE, AMPERE_PLUS, SAME_CAPABILITY)
_NAMES = {TENSORRT: "TensorRT", RTX: "TensorRT for RTX"}


@dataclass(frozen=True)
class Fingerprint:
    """A TensorRT and a GPU: those that built an engine, or those of this machine.

    Attributes:
        flavour: "tensorrt", or "rtx" for TensorRT for RTX.
        version: all numbers, as "11.4.0.106".
        gpu: name of the GPU that built it; None where it was built without one.
        compute_capabilities: that it runs on, as ("8.9",); several only of "rtx".
        driver: the newest CUDA of the driver, for the record; None where it was built without a GPU.
        hardware_compatibility: "none" (the same GPU), "same_compute_capability" or "ampere_plus" (8.0 and newer).
    """

    flavour: str
    version: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    driver: str | None = None
    hardware_compatibility: str = NONE

    def to_dict(self) -> dict[str, Any]:
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**data, "compute_capabilities": list(self.compute_capabilities)}

    @classmethod
    def from_dict(cls, data: Any) -> Fingerprint:
        """What `to_dict` wrote.

        Raises:
            BundleError: it did not write that.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise BundleError(f"the fingerprint of an engine has not the keys {', '.join(sorted(names))}: export again")
        capabilities = data["compute_capabilities"]
        optional = [data[name] for name in ("gpu", "driver")]
        good = (
            data["flavour"] in tuple(_NAMES)
            and data["hardware_compatibility"] in COMPATIBILITIES
            and isinstance(data["version"], str)
            and all(value is None or isinstance(value, str) for value in optional)
            and isinstance(capabilities, list)
            and bool(capabilities)
            and all(isinstance(value, str) and _is_capability(value) for value in capabilities)
        )
        if not good:
            raise BundleError(
                "the fingerprint of its engine does not say a TensorRT and GPUs that there are: export again"
            )
        return cls(**{**data, "compute_capabilities": tuple(capabilities)})

    def __str__(self) -> str:
        gpu = self.gpu or "any GPU"
        return f"{_NAMES[self.flavour]} {self.version}, {gpu} ({', '.join(self.compute_capabilities)})"


def fingerprint_of(flavour: str, module: Any, gpu: Gpu, hardware_compatibility: str = NONE) -> Fingerprint:
    """That of a module of TensorRT and a GPU."""
    return Fingerprint(
        flavour, str(module.__version__), gpu.name, (gpu.compute_capability,), gpu.driver, hardware_compatibility
    )


def refuse(fingerprint: Fingerprint, here: Fingerprint) -> str | None:
    """Why an engine cannot run here and what to do about it; None if nothing speaks against it.

    Args:
        fingerprint: of the engine.
        here: of this machine, with one compute capability.
    """
    theirs, ours = _NAMES[fingerprint.flavour], _NAMES[here.flavour]
    if fingerprint.flavour != here.flavour:
        return f"the engine is of {theirs}, this is {ours}: install {theirs} {fingerprint.version}, or build it here"
    if fingerprint.version != here.version:
        return (
            f"the engine was built with {theirs} {fingerprint.version}, this is {here.version}, and an engine runs with"
            f" the version that built it: build it again here, or install {fingerprint.version}"
        )
    told = _gpu_differs(fingerprint, here)
    return None if told is None else f"{told}: build it again on this machine, for this GPU"


def _gpu_differs(fingerprint: Fingerprint, here: Fingerprint) -> str | None:
    built, capability = ", ".join(fingerprint.compute_capabilities), here.compute_capabilities[0]
    this = f"{here.gpu} ({capability})"
    if fingerprint.hardware_compatibility == AMPERE_PLUS:
        if _numbers(capability) >= (8, 0):
            return None
        return f"the engine is for GPUs of compute capability 8.0 and newer, this is {this}"
    if capability not in fingerprint.compute_capabilities:
        return f"the engine is for compute capability {built}, this is {this}"
    bound = fingerprint.gpu is not None and fingerprint.hardware_compatibility == NONE
    if bound and fingerprint.flavour == TENSORRT and fingerprint.gpu != here.gpu:
        return f"the engine was built on {fingerprint.gpu} ({built}), this is {this}"
    return None


def _is_capability(text: str) -> bool:
    major, dot, minor = text.partition(".")
    return dot == "." and major.isdigit() and minor.isdigit()


def _numbers(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)
