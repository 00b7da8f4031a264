"""What a Core ML package can be: its precision and the system that it needs. Needs neither coremltools nor torch."""

from __future__ import annotations

from dataclasses import dataclass

from debiexport.errors import UsageError

TARGETS = ("iOS16", "iOS17", "iOS18")
DEFAULT_TARGET = "iOS17"
SYSTEMS = {"iOS16": "macOS 13", "iOS17": "macOS 14", "iOS18": "macOS 15"}
"""macOS releases that run what an iOS release runs."""


@dataclass(frozen=True)
class Precision:
    """How numbers are stored and computed.

    Attributes:
        name: as in `--precision`.
        compute: type of the activations, "fp16" or "fp32".
        compression: of the weights: None, "int8" or "palette".
        bits: of a compressed weight.
        least_target: the oldest system that has the compression.
    """

    name: str
    compute: str
    compression: str | None = None
    bits: int = 0
    least_target: str = "iOS16"


PRECISIONS = {
    "fp16": Precision("fp16", "fp16"),
    "fp32": Precision("fp32", "fp32"),
    "int8": Precision("int8", "fp16", "int8", 8),
    "palette6": Precision("palette6", "fp16", "palette", 6),
    "palette4": Precision("palette4", "fp16", "palette", 4),
}


def find_precision(name: str) -> Precision:
    """A precision by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRECISIONS:
        raise UsageError(f"--precision is {name!r}: give one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def check_target(target: str, precision: Precision, batches: int) -> str:
    """Refuse a target that is unknown, or too old for what is asked.

    Raises:
        UsageError: it is.
    """
    if target not in TARGETS:
        raise UsageError(f"--target is {target!r}: give one of {', '.join(TARGETS)}")
    if TARGETS.index(target) < TARGETS.index(precision.least_target):
        raise UsageError(f"--target is {target}, but {precision.name} needs {precision.least_target}: give that")
    if batches > 1 and target != "iOS18":
        raise UsageError(
            f"--target is {target}, but several batches in one package need iOS18 (macOS 15): give --target iOS18,"
            " or one --batch"
        )
    return target
