"""Environments with other packages than this one, for the tests of the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from importlib.machinery import ModuleSpec

import pytest

from debiexport.doctor import Ability, Diagnosis, Package, diagnose, packages

RUNNING = {
    "debiexport": "0.1.0",
    "numpy": "2.3.5",
    "onnx": "1.23.2",
    "onnxruntime": "1.31.1",
    "pillow": "13.0.0",
    "typer": "0.29.2",
    "rich": "15.0.0",
}
EXPORTING = {**RUNNING, "torch": "2.13.0+cpu", "onnxscript": "0.7.2", "safetensors": "0.8.0"}


def pretend(
    monkeypatch: pytest.MonkeyPatch, installed: Mapping[str, str | None], without_module: tuple[str, ...] = ()
) -> Diagnosis:
    """Diagnose as if exactly `installed` were there, and the modules `without_module` were not."""

    def version(name: str) -> str | None:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    def requires(name: str) -> list[str]:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return ["numpy>=1.26", "onnxruntime>=1.22", 'torch>=2.9; extra == "export"', "debiexport[export]", "rich"]

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name in without_module else ModuleSpec(name, None, origin=f"{name}.py")

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", requires)
    monkeypatch.setattr(packages, "find_spec", find_spec)
    return diagnose()


def ability(diagnosis: Diagnosis, name: str) -> Ability:
    return next(a for a in diagnosis.abilities if a.name == name)


def package(diagnosis: Diagnosis, name: str) -> Package:
    return next(p for p in diagnosis.packages if p.name == name)
