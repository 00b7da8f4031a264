"""The script that installs the real Triton: what it refuses, what it puts where, and that it does so once."""

from __future__ import annotations

import json
import os
import platform
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import real_triton

from debiexport.errors import MissingDependencyError, OutputError

PACKAGES = "lib/site-packages"
STUB = "triton_python_backend_stub"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script on a machine that suits it."""
    module = real_triton.installer()
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    monkeypatch.setattr(module, "python_library_folder", lambda: "")
    return module


@pytest.fixture
def wheel(script: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Instead of a virtual environment with the wheel a folder that looks like it; the packages of every one made."""
    made: list[str] = []

    def make(folder: Path, packages: str) -> Path:
        made.append(packages)
        triton = folder / PACKAGES / "pytriton" / "tritonserver"
        for path in ("backends/python/libtriton_python.so", "caches/local/cache.so", "bin/tritonserver"):
            _write(triton / path, "#!/bin/sh\nexit 1\n")
        _write(triton / "python_backend_stubs" / "3.11" / STUB, "#!/bin/sh\nexit 1\n")
        (folder / PACKAGES / "nvidia_pytriton.libs").mkdir()
        return folder / PACKAGES

    monkeypatch.setattr(script, "_make_environment", make)
    return made


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_it_suits_this_description(script: Any) -> None:
    assert script.why_not_here() is None


@pytest.mark.parametrize(
    ("where", "name", "value", "words"),
    [
        (platform, "system", lambda: "Darwin", "this is Darwin on x86_64"),
        (platform, "machine", lambda: "aarch64", "this is Linux on aarch64"),
        (platform, "libc_ver", lambda: ("", ""), "C library is not glibc"),
        (platform, "libc_ver", lambda: ("glibc", "2.31"), "this system has glibc 2.31, Triton needs glibc 2.35"),
        (sys, "version_info", (3, 13, 0), "this is Python 3.13, Triton's Python backend runs with 3.11 or 3.12"),
        (None, "python_library_folder", lambda: None, "on Debian run apt-get install libpython3.11"),
    ],
)
def test_what_does_not_suit(
    where: Any,
    name: str,
    value: object,
    words: str,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(where or script, name, value)
    assert script.main(["--output", str(tmp_path / "triton")]) == MissingDependencyError.exit_code
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "triton").exists()


def test_the_python_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That of the interpreter's own folder comes first: the system's is of another build."""
    script = real_triton.installer()
    name = "libpython{}.{}".format(*sys.version_info[:2])
    monkeypatch.setattr(script.sysconfig, "get_config_var", {"LIBDIR": str(tmp_path)}.get)
    monkeypatch.setattr(script.ctypes.util, "find_library", lambda asked: f"lib{asked}.so.1.0")
    assert script.python_library_folder() == ""
    (tmp_path / f"{name}.so.1.0").touch()
    assert script.python_library_folder() == str(tmp_path)
    (tmp_path / f"{name}.so.1.0").unlink()
    monkeypatch.setattr(script.ctypes.util, "find_library", lambda asked: None)
    assert script.python_library_folder() is None


def test_installation(
    script: Any, wheel: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "triton"
    assert script.main(["--output", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: installed\n"
    lock = (real_triton.CHECKOUT / "requirements.lock").read_text().splitlines()
    assert len(wheel) == 1
    assert wheel[0].split()[2] in lock  # ONNX Runtime, as the tests have it
    stand_in = script.STAND_IN.read_bytes()
    for backend in ("onnxruntime", "tensorrt"):
        assert (folder / "backends" / backend / "model.py").read_bytes() == stand_in
    assert os.access(folder / "backends" / "python" / STUB, os.X_OK)
    assert (folder / "backends" / "python" / "libtriton_python.so").is_file()
    assert (folder / "caches" / "local" / "cache.so").is_file()
    assert (folder / ".gitignore").read_text() == "*\n"
    monkeypatch.setattr(real_triton, "FOLDER", folder)
    found, said = real_triton.installation()
    for name in ("server", "libraries", "python", "backends", "caches"):
        assert not Path(said[name]).is_absolute()  # it was made somewhere else
    assert (found / said["server"]).is_file()


def test_it_is_done_once(script: Any, wheel: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "triton"
    assert script.install(folder) == "installed"
    (folder / "mark").touch()
    assert script.install(folder) == "up to date"
    assert (folder / "mark").exists()
    other = tmp_path / "other.py"
    other.write_text("another stand-in")
    monkeypatch.setattr(script, "STAND_IN", other)
    assert script.install(folder) == "installed"
    assert not (folder / "mark").exists()
    assert len(wheel) == 2
    (folder / "installation.json").write_text("{")
    assert script.install(folder) == "installed"


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), MissingDependencyError("no network")])
def test_a_failure_leaves_what_was_there(
    fault: BaseException, script: Any, wheel: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "triton"
    script.install(folder)
    before = sorted(tmp_path.rglob("*"))

    def fail(command: list[str], libraries: Path) -> None:
        raise fault

    monkeypatch.setattr(script, "_check_it_loads", fail)
    monkeypatch.setattr(script, "NUMPY", "numpy==1.26.3")
    with pytest.raises(type(fault)):
        script.install(folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert json.loads((folder / "installation.json").read_text())["made_from"]["packages"].count("numpy==1.26.4")


def test_a_folder_of_somebody_else_is_left_alone(script: Any, wheel: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"holds no installation\.json"):
        script.install(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_library_that_is_missing(script: Any, tmp_path: Path, one_line: Callable[[BaseException], str]) -> None:
    program = tmp_path / "tritonserver"
    _write(tmp_path / "bin" / program.name, "#!/bin/sh\necho 'libx.so: cannot open shared object file' >&2\nexit 127\n")
    with pytest.raises(MissingDependencyError, match=r"tritonserver does not load here \(libx\.so: cannot") as refused:
        script._check_it_loads([str(tmp_path / "bin" / program.name)], tmp_path)
    one_line(refused.value)


def test_pip_fails(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1 if "pip" in command else 0)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(MissingDependencyError, match="pip could not install a==1 b==2"):
        script._make_environment(tmp_path / "venv", "a==1 b==2")
    assert [command[2] for command in commands] == ["venv", "pip"]


# ------------------------------------------------------------------------------- without an installation


@pytest.mark.parametrize("required", ["", "0", "1"])
def test_tests_are_skipped_or_fail(required: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(real_triton, "FOLDER", tmp_path)
    monkeypatch.setenv(real_triton.REQUIRE, required)
    wanted = pytest.fail.Exception if required == "1" else pytest.skip.Exception
    with pytest.raises(wanted) as ended:
        real_triton.installation()
    reason = str(ended.value)
    assert "install_triton.py" in reason or (real_triton.installer().why_not_here() or "?") in reason
    assert reason.startswith("REQUIRE_TRITON=1, and ") == (required == "1")


def test_a_server_that_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("no models")
    with (
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process,
        pytest.raises(real_triton.TritonFailed, match="the server ended with 3:\nno models"),
    ):
        real_triton.wait_until_ready(process, "127.0.0.1:1", log)


def test_a_server_that_is_never_ready(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with pytest.raises(real_triton.TritonFailed, match=r"not ready after 0\.2 s"):
            real_triton.wait_until_ready(process, "127.0.0.1:1", log, 0.2)
        real_triton.stop(process)
    assert process.returncode == -signal.SIGTERM
