"""Install the real Triton for the tests: its server and Python backend, with stand-ins for the two backends of ours.

    .venv/bin/python tools/install_triton.py [--output .triton]

What it fetches is the wheel of PyTriton, the one place that has NVIDIA's server binary outside a container, and puts it
into a virtual environment of its own, as it needs numpy below 2. Nothing of it is needed to use debiexport, and the
server runs neither ONNX nor TensorRT models by itself: see `triton_stand_in.py` for what computes in their place.

The folder is written whole or not at all; run again, it is left as it is unless the versions, the interpreter or the
stand-in have changed. `installation.json` in it says where everything is; `tests/real_triton.py` reads it.
"""

from __future__ import annotations

import argparse
import ctypes.util
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from debiexport.atomic import staged_folder
from debiexport.errors import DebiexportError, MissingDependencyError

CHECKOUT = Path(__file__).resolve().parent.parent
STAND_IN = Path(__file__).with_name("triton_stand_in.py")
INSTALLATION = "installation.json"
BACKENDS = ("onnxruntime", "tensorrt")

PYTRITON, NUMPY = "nvidia-pytriton==0.7.0", "numpy==1.26.4"
PYTHONS = ((3, 11), (3, 12))  # the wheel has a stub for each, and this numpy a wheel
GLIBC = (2, 35)


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, and return the exit code: that of the errors of debiexport."""
    parser = argparse.ArgumentParser(description="Install the real Triton for the tests.")
    parser.add_argument("--output", type=Path, default=CHECKOUT / ".triton", metavar="DIR", help="default: %(default)s")
    output: Path = parser.parse_args(arguments).output
    try:
        reason = why_not_here()
        if reason is not None:
            raise MissingDependencyError(reason)
        print(f"{output}: {install(output)}")
    except DebiexportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def why_not_here() -> str | None:
    """Why the server cannot run on this machine and with this Python, and what to do; None where it can."""
    machine = (platform.system(), platform.machine())
    if machine != ("Linux", "x86_64"):
        return f"this is {' on '.join(machine)}, and the wheel of Triton is for Linux on x86_64: test it there"
    library, version = platform.libc_ver()
    if library != "glibc":
        return f"this system's C library is {library or 'not glibc'}, Triton needs glibc 2.35 as in Debian 12"
    if tuple(map(int, version.split(".")[:2])) < GLIBC:
        return f"this system has {library} {version}, Triton needs glibc 2.35 as in Debian 12: use a newer system"
    python = sys.version_info[:2]
    if python not in PYTHONS:
        allowed = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        return (
            f"this is Python {python[0]}.{python[1]}, Triton's Python backend runs with {allowed} here: use one of them"
        )
    if python_library_folder() is None:
        name = f"libpython{python[0]}.{python[1]}"
        return f"{name}.so.1.0 is missing, which Triton's Python backend loads: on Debian run apt-get install {name}"
    return None


def python_library_folder() -> str | None:
    """Where this Python's shared library is: a folder, "" if the loader finds it by itself, None if it is nowhere."""
    version = "{}.{}".format(*sys.version_info[:2])
    folder = sysconfig.get_config_var("LIBDIR") or ""
    if folder and (Path(folder) / f"libpython{version}.so.1.0").is_file():
        return folder
    return None if ctypes.util.find_library(f"python{version}") is None else ""


def install(output: Path) -> str:
    """Make the folder unless it is there and up to date; what was done, in words.

    Raises:
        OutputError: it cannot be written, or is something else.
        MissingDependencyError: a package cannot be fetched, or does not run here.
    """
    made_from = _ingredients()
    if _is_current(output, made_from):
        return "up to date"
    with staged_folder(output, force=True, marker=INSTALLATION) as staged:
        packages = _make_environment(staged.path / "venv", made_from["packages"])
        triton = packages / "pytriton" / "tritonserver"
        for name in ("backends", "caches"):
            shutil.copytree(triton / name, staged.path / name)
        stub = staged.path / "backends" / "python" / "triton_python_backend_stub"
        shutil.copy2(triton / "python_backend_stubs" / made_from["python"] / stub.name, stub)
        for name in BACKENDS:
            (staged.path / "backends" / name).mkdir()
            shutil.copyfile(STAND_IN, staged.path / "backends" / name / "model.py")
        inside = {
            "server": triton / "bin" / "tritonserver",
            "libraries": packages / "nvidia_pytriton.libs",
            "python": staged.path / "venv" / "bin",
            "backends": staged.path / "backends",
            "caches": staged.path / "caches",
        }
        _check_it_loads([str(stub)], inside["libraries"])
        _check_it_loads([str(inside["server"]), "--help"], inside["libraries"])
        record = {name: path.relative_to(staged.path).as_posix() for name, path in inside.items()}
        (staged.path / ".gitignore").write_text("*\n", encoding="utf-8")  # wherever it lies, it is nobody's work
        text = json.dumps({"made_from": made_from, "python_library": python_library_folder(), **record}, indent=2)
        (staged.path / INSTALLATION).write_text(text + "\n", encoding="utf-8")
        staged.commit()
    return "installed"


def _ingredients() -> dict[str, str]:
    """Everything that the folder depends on. ONNX Runtime is that of the tests, as results are compared bit by bit."""
    lock = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    (onnxruntime,) = re.findall(r"^onnxruntime==\S+", lock, re.MULTILINE)
    return {
        "packages": " ".join((PYTRITON, NUMPY, onnxruntime)),
        "python": "{}.{}".format(*sys.version_info[:2]),
        "interpreter": os.path.realpath(sys.executable),
        "stand_in": hashlib.sha256(STAND_IN.read_bytes()).hexdigest(),
        "installer": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    }


def _is_current(output: Path, made_from: dict[str, str]) -> bool:
    try:
        return bool(json.loads((output / INSTALLATION).read_text(encoding="utf-8"))["made_from"] == made_from)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make_environment(folder: Path, packages: str) -> Path:
    """A virtual environment with packages and none of what they require: PyTriton's own Python code is not run.

    Returns:
        Its site-packages.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps"]
    if subprocess.run([*pip, *packages.split()], check=False).returncode != 0:
        raise MissingDependencyError(f"pip could not install {packages}: its reason is above; try again")
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


def _check_it_loads(command: list[str], libraries: Path) -> None:
    """Refuse a binary whose libraries are not all here. Neither does anything by itself, nor ends with 0."""
    folders = filter(None, (str(libraries), python_library_folder()))
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 127 or "error while loading shared libraries" in done.stderr:
        reason = " ".join(done.stderr.split())[:300]
        raise MissingDependencyError(f"{Path(command[0]).name} does not load here ({reason}): install what it names")


if __name__ == "__main__":
    sys.exit(main())
