"""What is installed: the wheel's files, both kinds of installation, what an import costs, and the lock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
# Folder of the repository -> folder in site-packages.
FOLDERS = {"debiexport": "debiexport", "models": "debiexport/models", "plugins": "debiexport/plugins"}
PYPROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def python(program: str, cwd: Path, *options: str, path: Path | None = None) -> str:
    """Run a program elsewhere than in the repository; what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    run = subprocess.run(
        [sys.executable, *options, "-c", program], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def source_files(pattern: str) -> set[str]:
    """Files of the source tree that match a pattern, as paths in site-packages."""
    return {
        f"{target}/{path.relative_to(REPOSITORY / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (REPOSITORY / folder).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


# --------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders beside the sources, and takes up what an older one left."""
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    output = tmp_path_factory.mktemp("dist")
    program = f"from setuptools.build_meta import build_wheel; build_wheel({str(output)!r})"
    python(program, copy)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_has_every_module(wheel_files: set[str]) -> None:
    modules = source_files("*.py")
    assert "debiexport/models/__init__.py" in modules
    assert modules - wheel_files == set()


def test_every_folder_with_modules_is_a_listed_package() -> None:
    """The list in pyproject.toml is written by hand; a folder that it lacks would be missing from the wheel."""
    folders = {module.rpartition("/")[0].replace("/", ".") for module in source_files("*.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders
    for name in source_files("*.py"):
        assert f"{name.rpartition('/')[0]}/__init__.py" in source_files("__init__.py")


def test_wheel_has_the_data(wheel_files: set[str]) -> None:
    data = source_files("py.typed") | {name for name in source_files("*") if name.startswith("debiexport/data/")}
    for pattern in ("*.toml", "*.safetensors", "*.labels.txt", "*.png"):
        data |= {name for name in source_files(pattern) if name.startswith("debiexport/models/")}
    assert {"debiexport/py.typed", "debiexport/models/debi_nano.toml"} <= data
    assert data - wheel_files == set()


def test_wheel_has_nothing_else_at_the_top(wheel_files: set[str]) -> None:
    version = PYPROJECT["project"]["version"]
    assert {name.split("/")[0] for name in wheel_files} == {"debiexport", f"debiexport-{version}.dist-info"}
    assert not [name for name in wheel_files if "__pycache__" in name or "/tests/" in name]


def test_wheel_has_the_licence_and_the_command(wheel: Path, wheel_files: set[str]) -> None:
    (licence,) = (name for name in wheel_files if name.endswith(".dist-info/licenses/LICENSE"))
    with zipfile.ZipFile(wheel) as archive:
        entry_points = archive.read(licence.replace("licenses/LICENSE", "entry_points.txt")).decode()
    assert "debiexport = debiexport.__main__:main" in entry_points


def test_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """Packages of the wheel come from where it is installed, cards are readable, no folder of the repository shows."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, cwd=tmp_path)
    program = (
        "import sys\n"
        # The editable installation of the environment would answer as well: leave only the wheel.
        "sys.meta_path[:] = [f for f in sys.meta_path if not f.__module__.startswith('__editable__')]\n"
        "import debiexport.models, debiexport.plugins, debiexport.cards as cards\n"
        "from importlib.util import find_spec\n"
        "assert find_spec('models') is None and find_spec('plugins') is None\n"
        "assert 'debi_nano' in cards.card_names() and all(cards.iter_cards())\n"
        "print(debiexport.models.__file__)"
    )
    assert Path(python(program, tmp_path, path=target)) == target / "debiexport" / "models" / "__init__.py"


# --------------------------------------------------------------------------------------- the editable installation


def test_editable_installation(tmp_path: Path) -> None:
    program = (
        "import debiexport.models, debiexport.plugins\n"
        "from importlib.util import find_spec\n"
        "assert find_spec('models') is None and find_spec('plugins') is None\n"
        "print(debiexport.models.__file__)"
    )
    assert Path(python(program, tmp_path, "-I")) == REPOSITORY / "models" / "__init__.py"


@pytest.mark.parametrize("module", ["debiexport", "debiexport.errors", "debiexport.cards", "debiexport.doctor"])
def test_imports_that_stay_light(module: str, tmp_path: Path) -> None:
    program = f"import sys, {module}; print({{'torch', 'onnx', 'onnxruntime', 'numpy'}} & set(sys.modules))"
    assert python(program, tmp_path, "-I") == "set()"


# --------------------------------------------------------------------------------------- dependencies


def lock() -> dict[str, Requirement]:
    lines = [line.strip() for line in (REPOSITORY / "requirements.lock").read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def declared() -> list[Requirement]:
    """What `make setup` installs: the core, [export], [dev], and the build backend."""
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for extra in ("export", "dev"):
        texts += project["optional-dependencies"][extra]
    return [requirement for text in texts if (requirement := Requirement(text)).name != project["name"]]


def test_lock_has_exact_versions_only() -> None:
    for requirement in lock().values():
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        assert "*" not in pin.version
        # A local version, such as +cpu, exists in one index only.
        assert "+" not in pin.version
        assert requirement.url is None


def test_lock_installs_without_a_gpu_and_from_any_index() -> None:
    text = (REPOSITORY / "requirements.lock").read_text()
    # What a CUDA build of torch brings, and full TensorRT. Triton, TensorRT for RTX and bindings need no GPU.
    assert not [name for name in lock() if re.search("nvidia|cuda-toolkit|^tensorrt$|^tensorrt-cu.*-libs$", name)]
    assert "://" not in text
    assert not [line for line in text.splitlines() if line.startswith("-")]


def test_lock_agrees_with_pyproject() -> None:
    pins = lock()
    for requirement in declared():
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}: the lock has {pin.version}"


def test_lock_leaves_room_for_packages_to_come() -> None:
    """coremltools 9 fails with numpy 2.4, and others need protobuf below 7."""
    for text in ("numpy<2.4", "protobuf<7"):
        requirement = Requirement(text)
        (pin,) = lock()[requirement.name].specifier
        assert requirement.specifier.contains(pin.version)


def test_running_takes_no_more_than_it_has_to() -> None:
    names = {Requirement(text).name for text in PYPROJECT["project"]["dependencies"]}
    assert names == {"numpy", "onnx", "onnxruntime", "pillow", "typer", "rich"}
