"""Which TensorRT is here, the logger that keeps its errors, and the fake against the real bindings."""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_tensorrt
import pytest
from fake_cuda import FakeCuda, cudaError_t
from fake_tensorrt import CLASSES, OWN, FakeTensorRT
from fake_tensorrt_types import ENUMS
from tensorrt_signatures import offered, signatures

from debiexport.errors import MissingDependencyError
from debiexport.runtimes import cuda
from debiexport.targets.tensorrt.logger import MAX_ERRORS, make_logger
from debiexport.targets.tensorrt.version import RTX, TENSORRT, require_flavour, require_tensorrt, version_of

OneLine = Callable[[BaseException], str]


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "import_cuda_runtime", lambda: fake)
    return fake


# ------------------------------------------------------------------------------- what is here


@pytest.mark.parametrize("version", ["10.13.0.35", "10.16.1", "11.4.0.106"])
def test_a_tensorrt_that_can_work(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda, version: str) -> None:
    module = FakeTensorRT(fake_cuda, version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert require_tensorrt() is require_flavour(TENSORRT, "x") is module


def test_a_tensorrt_that_is_too_old(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda, one_line: OneLine) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(fake_cuda, "10.12.0.36"))
    with pytest.raises(MissingDependencyError) as caught:
        require_tensorrt("proving it")
    text = one_line(caught.value)
    assert text.startswith("proving it needs TensorRT 10.13 or newer, this is 10.12.0.36: pip install --upgrade")
    assert "--engine rtx" in text and "--engine none" in text


def test_no_tensorrt(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda, one_line: OneLine) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError) as caught:
        require_tensorrt()
    text = one_line(caught.value)
    assert "building an engine needs an NVIDIA GPU and TensorRT 10.13 or newer, which cannot be imported here" in text
    assert "pip install 'debiexport[tensorrt]'" in text and "--engine rtx" in text
    assert caught.value.exit_code == 5
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))  # a placeholder
    with pytest.raises(MissingDependencyError, match="has no version"):
        require_tensorrt()


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda, one_line: OneLine) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(fake_cuda))
    fake_cuda.refused["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(MissingDependencyError) as caught:
        require_tensorrt()
    text = one_line(caught.value)
    assert "building an engine needs an NVIDIA GPU, and there is none that works here" in text
    assert "--engine rtx" in text


def test_tensorrt_for_rtx(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda, one_line: OneLine) -> None:
    module = FakeTensorRT(fake_cuda, "1.7.1.116", "tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    assert require_flavour(RTX, "running x.plan") is module
    fake_cuda.count = 0
    with pytest.raises(MissingDependencyError, match=r"running x\.plan needs an NVIDIA GPU.*CUDA sees none"):
        require_flavour(RTX, "running x.plan")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError) as caught:
        require_flavour(RTX, "running x.plan")
    assert "pip install 'debiexport[rtx]'" in one_line(caught.value)


def test_version_of() -> None:
    module = ModuleType("m")
    module.__version__ = "10.13.3.9"  # type: ignore[attr-defined]
    assert version_of(module) == (10, 13, 3, 9)
    module.__version__ = "unknown"  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        version_of(module)


def test_the_logger_keeps_errors_only(fake_cuda: FakeCuda) -> None:
    module = FakeTensorRT(fake_cuda)
    logger, errors = make_logger(module)
    assert logger.ready and errors.told == "it does not say why"
    severity = module.ILogger.Severity
    for each in severity:
        logger.log(each, f"a {each.name}\n  in two lines")
    assert errors.lines == ["a INTERNAL_ERROR in two lines", "a ERROR in two lines"]
    assert errors.told == "a ERROR in two lines"
    for _ in range(2 * MAX_ERRORS):
        logger.log(severity.ERROR, "x" * 1000)
    assert len(errors.lines) == MAX_ERRORS and len(errors.told) == 300


# ------------------------------------------------------------------------------- the fake and the real one


@pytest.fixture(scope="module", params=["tensorrt_bindings", "tensorrt_rtx"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the real bindings offer."""
    classes, enums = [kind.__name__ for kind in CLASSES], [kind.__name__ for kind in ENUMS]
    told = offered(request.param, classes, enums, tmp_path_factory.mktemp("libraries"))
    if isinstance(told, str):
        pytest.skip(told)
    return told


def test_the_fake_offers_nothing_that_is_not_there(real: dict[str, Any]) -> None:
    for kind in CLASSES:
        members = real["classes"][kind.__name__]
        for name, member in vars(kind).items():
            if name.startswith("_") or name in OWN:
                continue
            assert name in members, f"{kind.__name__}.{name}"
            if isinstance(member, property):
                assert members[name].startswith("property"), f"{kind.__name__}.{name}"
            elif inspect.isfunction(member):
                check_parameters(f"{kind.__name__}.{name}", member, members[name])


def check_parameters(where: str, member: Callable[..., Any], docstring: str) -> None:
    """A call that the fake takes is one that some overload of the real one takes."""
    parameters = list(inspect.signature(member).parameters.values())[1:]
    found = signatures(docstring, member.__name__)
    assert found, f"{where}: {docstring!r}"
    mine = [p.name for p in parameters]
    needed = [p.name for p in parameters if p.default is p.empty]
    assert any(
        [name for name, _ in overload][: len(mine)] == mine and {n for n, free in overload if not free} == set(needed)
        for overload in found
    ), f"{where}: {mine} beside {found}"


def test_constructors_and_assignments(real: dict[str, Any]) -> None:
    for kind in (fake_tensorrt.Builder, fake_tensorrt.OnnxParser, fake_tensorrt.Runtime, fake_tensorrt.ILogger):
        check_parameters(kind.__name__, kind.__init__, real["classes"][kind.__name__]["__init__"])
    for kind, name in (
        ("IBuilderConfig", "profiling_verbosity"),
        ("IBuilderConfig", "hardware_compatibility_level"),
        ("EngineInspector", "execution_context"),
    ):
        assert real["classes"][kind][name] == "property set"


def test_the_enums_have_these_members(real: dict[str, Any]) -> None:
    full = real["version"].split(".")[0] != "1"
    for kind in ENUMS:
        members = {member.name for member in kind} if issubclass(kind, enum.Enum) else set()
        if not full:  # TensorRT for RTX has one form of plugins
            members.discard("PREFER_AOT_PYTHON_PLUGINS")
        assert members <= set(real["enums"][kind.__name__]), kind.__name__
    assert "FP16" not in real["enums"]["BuilderFlag"]


def test_what_is_not_here_is_said(tmp_path: Path) -> None:
    assert offered("no_such_package", [], [], tmp_path) == "no_such_package is not installed"
