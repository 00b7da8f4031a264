"""Every state that a package can be in."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

import pytest
from pretended import RUNNING, ability, package, pretend

from debiexport.doctor import diagnose
from debiexport.doctor.packages import has_module, release


def test_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING, without_module=("onnxruntime",))
    assert not diagnosis.healthy
    assert [p.name for p in diagnosis.broken] == ["onnxruntime"]
    command = "pip install --force-reinstall --no-deps onnxruntime==1.31.1"
    assert str(diagnosis.broken[0]) == (
        f"onnxruntime 1.31.1: broken, its module onnxruntime is not there; run: {command}"
    )
    assert str(ability(diagnosis, "predict")) == f"predict: blocked, onnxruntime is broken; run: {command}"
    # What is missing is installed first: pip would otherwise take the broken package for a good one.
    assert ability(diagnosis, "check in full").commands == ("pip install 'debiexport[export]'", command)


@pytest.mark.parametrize("exception", [None, KeyError("Version")])
def test_metadata_without_a_version(monkeypatch: pytest.MonkeyPatch, exception: Exception | None) -> None:
    pretend(monkeypatch, RUNNING)

    def version(name: str) -> str | None:
        if exception is not None:
            raise exception
        return None

    monkeypatch.setattr(metadata, "version", version)
    found = package(diagnose(), "rich")
    assert str(found) == "rich of unknown version"
    assert found.reinstall == "pip install --force-reinstall --no-deps rich"


def test_a_module_is_found_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole_package_here").mkdir()
    (tmp_path / "whole_package_here" / "__init__.py").touch()
    (tmp_path / "leftover_folder_here" / "__pycache__").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert has_module("whole_package_here")
    assert not has_module("leftover_folder_here")
    assert not has_module("no_such_package_here")
    assert not has_module("no_such_package_here.child")


def test_a_module_imported_without_a_spec_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "module_without_spec", type(sys)("module_without_spec"))
    assert has_module("module_without_spec")


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9", "2.13.0+cpu"), ("1.9.9", "1.10"), ("2.3.5", "2.4.0rc1"), ("of unknown version", "0.1")]
)
def test_order_of_versions(older: str, newer: str) -> None:
    assert release(older) < release(newer)


def test_equal_versions() -> None:
    assert release("2.9") == release("2.9.0")
