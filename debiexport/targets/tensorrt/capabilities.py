"""Compute capabilities for which TensorRT for RTX builds a plan; no package is needed to know them."""

from __future__ import annotations

from collections.abc import Iterable

from debiexport.errors import UsageError

CAPABILITIES = {
    "sm75": "Turing",
    "sm80": "Ampere, A100",
    "sm86": "Ampere, RTX 30",
    "sm89": "Ada, RTX 40",
    "sm120": "Blackwell, RTX 50",
    "sm121": "Blackwell, GB10",
}
"""Name -> generation of GPUs. Hopper and other data-centre GPUs are served by the full TensorRT only."""


def parse_capabilities(text: str) -> tuple[str, ...]:
    """The names in a list such as "sm80,sm89", in its order.

    Raises:
        UsageError: the list is empty, or a name is unknown or stands there twice.
    """
    return check_capabilities(part.strip().lower() for part in text.split(",") if part.strip())


def check_capabilities(names: Iterable[str]) -> tuple[str, ...]:
    """The names, if TensorRT for RTX can build one plan for all of them.

    Raises:
        UsageError: there are none, or one is unknown or given twice.
    """
    given = tuple(names)
    if not given:
        raise UsageError(f"--gpu names no compute capability: choose from {known()}")
    for name in given:
        if name not in CAPABILITIES:
            raise UsageError(f"--gpu {name} is not served by TensorRT for RTX: choose from {known()}")
        if given.count(name) > 1:
            raise UsageError(f"--gpu names {name} twice: name it once")
    return given


def known() -> str:
    """The names with their GPUs, for messages."""
    return ", ".join(f"{name} ({gpus})" for name, gpus in CAPABILITIES.items())


def member(name: str) -> str:
    """The name of the member of `tensorrt_rtx.ComputeCapability`."""
    return name.upper()
