"""Every ability, and what stands in its way."""

from __future__ import annotations

import platform
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from pretended import EXPORTING, RUNNING, ability, package, pretend

from debiexport.doctor import abilities
from debiexport.doctor.abilities import ABILITIES, TORCH_NOTE
from debiexport.doctor.packages import CORE, PACKAGES
from debiexport.errors import MissingDependencyError
from debiexport.runtimes import cuda

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")


def test_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, EXPORTING)
    assert diagnosis.healthy
    assert [str(a) for a in diagnosis.abilities] == [
        "export to ONNX: ok",
        "check in full: ok",
        "check without torch: ok",
        "predict: ok",
        "bench: ok",
        "bench against plain: ok",
        "bench against eager: ok",
        "bench against openvino: blocked, openvino is not installed; run: pip install 'debiexport[export,openvino]'",
        "export to Core ML: blocked, coremltools is not installed; run: pip install 'debiexport[coreml]'",
        "check a Core ML bundle: blocked, coremltools is not installed; run: pip install 'debiexport[coreml]'",
        "bench Core ML: blocked, coremltools is not installed, this is Linux, and Core ML runs on macOS only;"
        " run: pip install 'debiexport[coreml]'",
        "export to TensorRT: blocked, onnx-graphsurgeon is not installed; run: pip install 'debiexport[tensorrt]'",
        "check a TensorRT bundle: ok",
        "build with TensorRT for RTX: blocked, onnx-graphsurgeon is not installed, tensorrt-rtx is not installed;"
        " run: pip install 'debiexport[rtx]'",
        "build and bench TensorRT engines: blocked, onnx-graphsurgeon is not installed, tensorrt is not installed,"
        " cuda-bindings is not installed; run: pip install 'debiexport[tensorrt]'",
        "serve: blocked, starlette is not installed, uvicorn is not installed, httptools is not installed, grpcio is"
        " not installed, tritonclient is not installed; run: pip install 'debiexport[serve]'",
        "write Triton repositories: blocked, tritonclient is not installed; run: pip install 'debiexport[serve]'",
    ]
    assert str(diagnosis) == "8 of 17 abilities ok, 0 packages broken, 0 conflicts"
    assert str(package(diagnosis, "torch")) == "torch 2.13.0+cpu"
    assert str(package(diagnosis, "tensorrt")) == "tensorrt: not installed"


COREML = {**EXPORTING, "coremltools": "9.0", "scikit-learn": "1.9.1"}
COREML_ABILITIES = ("export to Core ML", "check a Core ML bundle", "bench Core ML")


@pytest.mark.parametrize(("system", "last"), [("Linux", False), ("Darwin", True), ("", False)])
def test_core_ml(monkeypatch: pytest.MonkeyPatch, system: str, last: bool) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    diagnosis = pretend(monkeypatch, COREML)
    assert [ability(diagnosis, name).ok for name in COREML_ABILITIES] == [True, True, last]
    if not last:
        told = str(ability(diagnosis, "bench Core ML"))
        here = system or "an unknown system"
        assert told == f"bench Core ML: blocked, this is {here}, and Core ML runs on macOS only"
    assert diagnosis.report()


TENSORRT = {**EXPORTING, "onnx-graphsurgeon": "0.6.1", "tensorrt": "11.4.0", "cuda-bindings": "13.5.0"}


@pytest.mark.parametrize("told", [None, "building engines needs an NVIDIA GPU, and there is none that works here"])
def test_engines_take_a_gpu(monkeypatch: pytest.MonkeyPatch, told: str | None) -> None:
    monkeypatch.setattr(abilities, "no_gpu", lambda: told)
    diagnosis = pretend(monkeypatch, TENSORRT)
    assert ability(diagnosis, "export to TensorRT").ok
    found = ability(diagnosis, "build and bench TensorRT engines")
    assert found.reasons == (() if told is None else (told,))
    assert found.commands == (), "no package brings a GPU"
    assert diagnosis.report()


def test_no_gpu_is_told_without_a_package_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(what: str) -> None:
        raise MissingDependencyError(f"{what} needs an NVIDIA GPU: run it on a machine with one")

    monkeypatch.setattr(cuda, "require_gpu", refuse)
    assert abilities.no_gpu() == "building engines needs an NVIDIA GPU"
    monkeypatch.setattr(cuda, "require_gpu", lambda what: None)
    assert abilities.no_gpu() is None


def test_core_ml_with_a_numpy_that_is_too_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    diagnosis = pretend(monkeypatch, COREML | {"numpy": "2.4.1"})
    for name in COREML_ABILITIES:
        found = ability(diagnosis, name)
        assert found.reasons == ("numpy is 2.4.1, one below 2.4 is needed",)
        assert found.commands == ("pip install 'numpy<2.4'",)
    assert ability(diagnosis, "export to ONNX").ok
    without = pretend(monkeypatch, EXPORTING | {"numpy": "2.4.1"})
    assert ability(without, "bench Core ML").commands == (
        "pip install 'debiexport[coreml]'",
        "pip install 'numpy<2.4'",
    )


def test_without_torch_running_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, RUNNING)
    assert diagnosis.healthy
    assert {a.name for a in diagnosis.abilities if a.ok} == {"check without torch", "predict", "bench"}
    export = ability(diagnosis, "export to ONNX")
    assert export.reasons == ("torch is not installed", "onnxscript is not installed", "safetensors is not installed")
    assert export.commands == ("pip install 'debiexport[export]'",)
    assert export.note == TORCH_NOTE
    assert str(export) == (
        "export to ONNX: blocked, torch is not installed, onnxscript is not installed, safetensors is not installed;"
        f" run: pip install 'debiexport[export]' ({TORCH_NOTE})"
    )


def test_only_torch_brings_the_note_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    export = ability(pretend(monkeypatch, {k: v for k, v in EXPORTING.items() if k != "onnxscript"}), "export to ONNX")
    assert export.note is None
    assert str(export) == "export to ONNX: blocked, onnxscript is not installed; run: pip install 'debiexport[export]'"


def test_a_missing_core_package_blocks_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, {k: v for k, v in EXPORTING.items() if k != "onnxruntime"})
    assert not any(a.ok for a in diagnosis.abilities)
    assert ability(diagnosis, "predict").commands == ("pip install debiexport",)
    assert ability(diagnosis, "export to ONNX").commands == ("pip install 'debiexport[export]'",)


def test_another_build_of_onnxruntime_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {k: v for k, v in RUNNING.items() if k != "onnxruntime"} | {"onnxruntime-gpu": "1.31.1"}
    assert ability(pretend(monkeypatch, installed), "predict").ok


def test_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = pretend(monkeypatch, EXPORTING | {"torch": "2.8.1"})
    export = ability(diagnosis, "export to ONNX")
    assert export.reasons == ("torch is 2.8.1, 2.9 or newer is needed",)
    assert export.commands == ("pip install 'debiexport[export]'",)
    assert export.note == TORCH_NOTE
    assert diagnosis.healthy


def test_no_minimum_is_known_where_debiexport_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {k: v for k, v in EXPORTING.items() if k != "debiexport"} | {"torch": "2.8.1"}
    assert ability(pretend(monkeypatch, installed), "export to ONNX").ok


def test_tables_agree_with_each_other_and_with_pyproject() -> None:
    """An ability needs no package that the table of packages lacks, or that its extra does not bring."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    core = {Requirement(r).name for r in project["dependencies"]}
    assert core == set(CORE)
    for need in ABILITIES:
        brought = [Requirement(text) for text in brought_by(project, need.extra)]
        assert set(need.packages) <= core | {requirement.name for requirement in brought}
        assert set(need.packages) <= set(PACKAGES)
        for name, limit in need.below.items():
            assert any(r.name == name and str(r.specifier) == f"<{limit}" for r in brought)


def brought_by(project: dict[str, Any], extras: str | None) -> list[str]:
    """What extras bring, those of the extras that they name too."""
    texts = [text for extra in (extras or "").split(",") if extra for text in project["optional-dependencies"][extra]]
    inner = ",".join(extra for text in texts if text.startswith("debiexport[") for extra in Requirement(text).extras)
    return texts + (brought_by(project, inner) if inner else [])
