"""Operations known never to run on an M1's Neural Engine, each with its evidence.

Apple publishes no such list. All of this is third-party evidence: what developers read in Core ML's compute
plans, in Xcode's reports and in latencies, on various machines and systems. An operation without a rule is
eligible as far as is known, which does not mean that Core ML places it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CAST = "cast"
_WIDE = ("fp32", "fp64")


@dataclass(frozen=True)
class Rule:
    """Why an operation does not run on the Neural Engine.

    Attributes:
        reason: in a few words; one reason may hold for several types of operation.
        evidence: who saw it, in a sentence.
    """

    reason: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.evidence}"


def _all(types: Sequence[str], reason: str, evidence: str) -> dict[str, Rule]:
    return dict.fromkeys(types, Rule(reason, evidence))


_REPORTED = "a third-party report that names no measurement"

# By the type of the operation alone, whatever it computes in.
BY_TYPE: dict[str, Rule] = {
    "topk": Rule("order", "compute plans leave it to the CPU even on an M3 (roboflow/rf-detr, pull request 1495)"),
    "argsort": Rule("order", "of one kind with topk, which compute plans leave to the CPU; not observed by itself"),
    "gather": Rule("indexing", "listed as unsupported by hollance/neural-engine"),
    "gather_along_axis": Rule(
        "indexing",
        "as slow with all compute units as on the CPU alone (apple/coremltools, issue 1103); compute plans leave it to"
        " the CPU even on an M3 (roboflow/rf-detr, pull request 1495)",
    ),
    "gather_nd": Rule("indexing", "of one kind with gather, listed as unsupported by hollance/neural-engine"),
    **_all(("scatter", "scatter_along_axis", "scatter_nd"), "indexing", _REPORTED),
    "resample": Rule(
        "sampling",
        "the unit for textures came one generation later; Xcode's report shows it on the CPU (apple/coremltools, issue"
        " 1875)",
    ),
    "one_hot": Rule("indexing", _REPORTED),
    "non_zero": Rule("indexing", f"the shape of its result depends on the data; {_REPORTED}"),
    "logical_and": Rule("logic", _REPORTED),
    **_all(
        ("logical_or", "logical_xor", "logical_not"),
        "logic",
        "of one kind with logical_and, which a third party reports; not observed by itself",
    ),
    **_all(("lstm", "gru", "rnn"), "recurrence", "listed as unsupported by hollance/neural-engine"),
}
CAST_TO_INTEGER = Rule("cast to an integer", _REPORTED)
CAST_FLOAT32 = Rule(
    "cast from or to float32",
    "the unit works in float16 (hollance/neural-engine); some compute plans list such a cast as possible there,"
    " but prefer the CPU (vx-lang/Vx, issue 436)",
)
FLOAT32 = Rule(
    "float32", "the unit works in float16 throughout (hollance/neural-engine; apple/coremltools, issue 1761)"
)


def never_on_ane(operation: str, takes: Sequence[str], gives: Sequence[str]) -> Rule | None:
    """The rule by which an operation never runs on an M1's Neural Engine; None if none is known.

    What it does comes before what it computes in: a topk in float32 stays a topk in float16.

    Args:
        operation: its type, such as "conv".
        takes: element types of the tensors that it takes, keys of `evaluate.dtypes.DTYPES`. Constants do not belong
            here: some parameters, such as a scale of an upsampling, are float32 in programs of float16 too.
        gives: element types of its results.
    """
    if operation in BY_TYPE:
        return BY_TYPE[operation]
    if operation == CAST and any(is_integer(dtype) for dtype in gives):
        return CAST_TO_INTEGER
    if any(is_wide_float(dtype) for dtype in (*takes, *gives)):
        return CAST_FLOAT32 if operation == CAST else FLOAT32
    return None


def is_integer(dtype: str) -> bool:
    """Whether a type is of integers; truth values are not among them."""
    return dtype.startswith(("int", "uint"))


def is_wide_float(dtype: str) -> bool:
    """Whether a type is of floating-point numbers of more than 16 bits."""
    return dtype in _WIDE
