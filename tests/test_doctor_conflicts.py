"""Every conflict, and the ways out."""

from __future__ import annotations

import pytest
from pretended import RUNNING, pretend


def test_two_builds_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING | {"onnxruntime-gpu": "1.30.0"})
    assert not diagnosis.healthy
    (conflict,) = diagnosis.conflicts
    uninstall = "pip uninstall --yes onnxruntime onnxruntime-gpu"
    assert [remedy.commands for remedy in conflict.remedies] == [
        (uninstall, "pip install onnxruntime==1.31.1"),
        (uninstall, "pip install onnxruntime-gpu==1.30.0"),
    ]
    assert str(conflict) == (
        "onnxruntime 1.31.1 beside onnxruntime-gpu 1.30.0: they write the same folder, so one has overwritten files of"
        f" the other; to run on the CPU, run: {uninstall} && pip install onnxruntime==1.31.1;"
        f" to run on an NVIDIA GPU, run: {uninstall} && pip install onnxruntime-gpu==1.30.0"
    )


@pytest.mark.parametrize(
    ("numpy", "coremltools", "conflicts"),
    [("2.4.0", "9.0", 1), ("2.10.1", "8.3", 1), ("2.3.5", "9.0", 0), ("2.4.0", "10.0", 0), ("2.4.0", None, 0)],
)
def test_numpy_beside_coremltools(
    monkeypatch: pytest.MonkeyPatch, numpy: str, coremltools: str | None, conflicts: int
) -> None:
    installed = RUNNING | {"numpy": numpy}
    if coremltools:
        installed["coremltools"] = coremltools
    diagnosis = pretend(monkeypatch, installed)
    assert len(diagnosis.conflicts) == conflicts
    if conflicts:
        assert str(diagnosis.conflicts[0]) == (
            f"coremltools {coremltools} beside numpy {numpy}: coremltools 9 fails with numpy 2.4 and newer;"
            " to keep coremltools, run: pip install 'numpy<2.4'"
        )


def test_without_numpy_there_is_no_conflict_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pretend(monkeypatch, {"coremltools": "9.0"}).conflicts
