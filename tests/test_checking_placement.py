"""The placement report, counted again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from debiexport.bundle import Bundle, open_bundle
from debiexport.checking_placement import check_placement, differences
from debiexport.placement.report import Finding, PlacementReport


def with_placement(path: Path, placement: dict[str, Any] | None) -> Bundle:
    bundle = open_bundle(path)
    return Bundle(path, replace(bundle.manifest, placement=placement))


def test_it_is_that_of_the_manifest(coreml_bundle: Path) -> None:
    bundle, notes = open_bundle(coreml_bundle), list[str]()
    report = check_placement(bundle, notes)
    assert report.to_dict() == bundle.manifest.placement
    assert notes == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data | {"written_bytes": 1, "function": "other"}, "it differs in function, written_bytes: "),
        (lambda data: data | {"multiply_adds": -1}, "in the manifest, the placement report is damaged"),
        (lambda data: None, "the manifest holds no placement report"),
    ],
)
def test_a_difference_is_a_note(coreml_bundle: Path, change: Any, words: str) -> None:
    placement = open_bundle(coreml_bundle).manifest.placement
    notes: list[str] = []
    report = check_placement(with_placement(coreml_bundle, change(placement)), notes)
    assert report.to_dict() == placement, "what is reported is what is counted"
    (note,) = notes
    assert words in note and "\n" not in note


def test_the_wording_of_the_evidence_is_no_difference() -> None:
    def report(**finding: Any) -> PlacementReport:
        one = Finding(
            **{"reason": "order", "type": "topk", "count": 2, "evidence": "seen", "names": ("a", "b")} | finding
        )
        return PlacementReport("main", {"topk": 2}, (one,), 0, 0, 0, 0, 0, 0, None, 0, 0, 0)

    assert differences(report(), report(evidence="seen again")) == []
    assert differences(report(), report(count=1)) == ["never_on_ane"]
