"""Which operations are known never to run on the Neural Engine, and why."""

from __future__ import annotations

import pytest

from debiexport.evaluate.dtypes import DTYPES
from debiexport.placement.rules import (
    BY_TYPE,
    CAST_FLOAT32,
    CAST_TO_INTEGER,
    FLOAT32,
    is_integer,
    is_wide_float,
    never_on_ane,
)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ("topk", "order"),
        ("argsort", "order"),
        ("gather", "indexing"),
        ("gather_along_axis", "indexing"),
        ("gather_nd", "indexing"),
        ("scatter", "indexing"),
        ("scatter_along_axis", "indexing"),
        ("scatter_nd", "indexing"),
        ("one_hot", "indexing"),
        ("non_zero", "indexing"),
        ("resample", "sampling"),
        ("logical_and", "logic"),
        ("logical_not", "logic"),
        ("lstm", "recurrence"),
    ],
)
def test_by_type_whatever_it_computes_in(operation: str, reason: str) -> None:
    for dtype in ("fp16", "fp32", "int32"):
        rule = never_on_ane(operation, [dtype], [dtype])
        assert rule is BY_TYPE[operation]
        assert rule.reason == reason


@pytest.mark.parametrize(
    ("takes", "gives"), [("fp16", "int32"), ("fp32", "int32"), ("bool", "uint8"), ("int32", "int16")]
)
def test_a_cast_to_an_integer(takes: str, gives: str) -> None:
    assert never_on_ane("cast", [takes], [gives]) is CAST_TO_INTEGER


@pytest.mark.parametrize(("takes", "gives"), [("fp16", "fp32"), ("fp32", "fp16"), ("bool", "fp32")])
def test_a_cast_at_either_end(takes: str, gives: str) -> None:
    assert never_on_ane("cast", [takes], [gives]) is CAST_FLOAT32


@pytest.mark.parametrize(("takes", "gives"), [("bool", "fp16"), ("fp16", "bool"), ("int32", "fp16")])
def test_other_casts(takes: str, gives: str) -> None:
    assert never_on_ane("cast", [takes], [gives]) is None


@pytest.mark.parametrize("operation", ["conv", "add", "softmax", "reshape", "an operation of tomorrow"])
def test_float32_makes_any_operation_ineligible(operation: str) -> None:
    assert never_on_ane(operation, ["fp16", "fp16"], ["fp16"]) is None
    assert never_on_ane(operation, ["fp16", "fp32"], ["fp16"]) is FLOAT32
    assert never_on_ane(operation, [], ["fp32"]) is FLOAT32
    assert never_on_ane(operation, ["fp64"], ["fp16"]) is FLOAT32


def test_comparisons_and_selections_of_float16_are_eligible() -> None:
    assert never_on_ane("greater", ["fp16", "fp16"], ["bool"]) is None
    assert never_on_ane("select", ["bool", "fp16", "fp16"], ["fp16"]) is None


def test_every_rule_gives_its_evidence_in_a_sentence() -> None:
    for rule in (*BY_TYPE.values(), CAST_TO_INTEGER, CAST_FLOAT32, FLOAT32):
        assert rule.reason
        assert len(rule.evidence.split()) >= 5
        assert "\n" not in str(rule)
        assert str(rule) == f"{rule.reason}: {rule.evidence}"


def test_kinds_of_types() -> None:
    whole = {dtype for dtype in DTYPES if is_integer(dtype)}
    wide = {dtype for dtype in DTYPES if is_wide_float(dtype)}
    assert wide == {"fp32", "fp64"}
    assert set(DTYPES) - whole - wide == {"fp16", "bool", "string"}
