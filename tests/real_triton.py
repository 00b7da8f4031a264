"""The real Triton on loopback: NVIDIA's server binary over a model repository, for as long as a test needs it.

`tools/install_triton.py` puts it in place. Where it is not, a test that asks for it is skipped with the reason; with
REQUIRE_TRITON=1 in the environment it fails instead, so that nobody takes a skip for a pass.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDER = CHECKOUT / ".triton"
REQUIRE = "REQUIRE_TRITON"
INSTALL = ".venv/bin/python tools/install_triton.py"
SHARED_MEMORY = Path("/dev/shm")
READY_S, STOP_S = 60, 20
ATTEMPTS = 3  # a free port may be somebody else's a moment later


@dataclass(frozen=True)
class Ports:
    """Where a server listens, as `tritonclient` wants it: host and port."""

    http: str
    grpc: str
    metrics: str


class TritonFailed(Exception):
    """The server ended before it was ready; the message is what its log says of it."""


class TritonCrashed(TritonFailed):
    """A signal of its own ended the server before it was ready: it may have had no time to say why."""


def installation() -> tuple[Path, dict[str, str]]:
    """The folder of the installation and what it says of itself; the test is skipped, or fails, where it is missing."""
    try:
        return FOLDER, json.loads((FOLDER / "installation.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = installer().why_not_here() or f"the real Triton is not installed in {FOLDER}: run {INSTALL}"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, and {reason}")
    pytest.skip(reason)


def installer() -> ModuleType:
    """`tools/install_triton.py`, which is a script and no part of a package."""
    spec = importlib.util.spec_from_file_location("install_triton", CHECKOUT / "tools" / "install_triton.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def real_triton(repository: Path, log: Path, options: Sequence[str] = ()) -> Iterator[Ports]:
    """Triton over a repository, ready; its models are loaded and unloaded by request.

    The configurations have to be complete: Triton is told to add nothing to them.

    Args:
        repository: a model repository; see `servable` for one with plans.
        log: a file for what the server says.
        options: more of its command line.

    Raises:
        TritonFailed: it refuses the repository.
    """
    for attempt in range(ATTEMPTS):
        ports = Ports(*(f"127.0.0.1:{port}" for port in free_ports(3)))
        process = _start(repository, ports, log, options)
        try:
            try:
                wait_until_ready(process, ports.http, log)
            except TritonFailed as error:
                if "in use" in str(error) and attempt < ATTEMPTS - 1:
                    continue
                raise
            yield ports
            return
        finally:
            stop(process)
            for left in SHARED_MEMORY.glob(f"{_prefix(ports)}*"):  # a version that failed to load leaves its region
                left.unlink(missing_ok=True)


def servable(repository: Path, copy: Path, models: dict[str, Path]) -> Path:
    """A copy of a repository whose plans the stand-in can run: on the CPU, each with its ONNX model beside it.

    Args:
        repository: as it was generated.
        copy: the folder to be.
        models: the ONNX model of every model that has a plan, by its name.
    """
    shutil.copytree(repository, copy)
    for name, onnx in models.items():
        config = copy / name / "config.pbtxt"
        config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
        for plan in (copy / name).glob("*/model.plan"):
            shutil.copyfile(onnx, plan.with_suffix(".onnx"))
    return copy


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until_ready(process: subprocess.Popen[bytes], http: str, log: Path, seconds: float = READY_S) -> None:
    """Wait until a server says that it is ready.

    Raises:
        TritonCrashed: a signal ended it.
        TritonFailed: it ended, or takes too long.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            kind = TritonCrashed if process.returncode < 0 else TritonFailed
            raise kind(f"the server ended with {process.returncode}:\n{_reason(log)}")
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{http}/v2/health/ready", timeout=5),
        ):  # not yet: 4xx or 503
            return
        time.sleep(0.05)
    raise TritonFailed(f"the server is not ready after {seconds} s:\n{_reason(log)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Let a server that was started here end by itself, and end it where it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(repository: Path, ports: Ports, log: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    folder, said = installation()
    libraries = [str(folder / said["libraries"]), *filter(None, [said["python_library"]])]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        # The Python backend finds the packages of the first python3.
        "PATH": os.pathsep.join([str(folder / said["python"]), os.environ.get("PATH", "")]),
    }
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        environment.pop(name, None)
    command = [
        str(folder / said["server"]),
        f"--model-repository={repository}",
        f"--backend-directory={folder / said['backends']}",
        f"--cache-directory={folder / said['caches']}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=2",
        "--backend-config=python,shm-default-byte-size=4194304",
        f"--backend-config=python,shm-region-prefix-name={_prefix(ports)}",
    ]
    for name, address in vars(ports).items():
        host, port = address.rsplit(":", 1)
        command += [f"--{name}-address={host}", f"--{name}-port={port}"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, *options], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _prefix(ports: Ports) -> str:
    """What the server's regions of shared memory begin with: no other server has its port."""
    return f"debiexport_triton_{ports.http.rpartition(':')[2]}_"


def _reason(log: Path) -> str:
    """The lines of a log that speak of errors, or its last ones: Triton ends with tables of its settings."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([line[:1000] for line in lines if line.startswith("E") or "error" in line.lower()] or lines)[
        -5000:
    ]
