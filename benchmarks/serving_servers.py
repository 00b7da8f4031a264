"""The servers that `serving.py` measures: the embedded one in a process of its own, and the real Triton beside it.

Both listen on loopback, on ports that are free, and end with the `with` that started them. Only these processes and
their children are looked at or signalled.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.errors import DebiexportError
from debiexport.triton.presets import ServingOptions
from debiexport.triton.protos import from_text, to_text
from debiexport.triton.repository import write_repository

TESTS = Path(__file__).resolve().parent.parent / "tests"
READY_S, STOP_S = 60.0, 20.0

if str(TESTS) not in sys.path:  # the real Triton and the malformed requests are the tests' own
    sys.path.append(str(TESTS))


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        http, grpc: "host:port".
        process: the embedded server's; None for Triton.
        pid: of the process whose memory counts, with that of its children.
        ready_s: seconds from its start until it said that it is ready.
    """

    http: str
    grpc: str
    pid: int
    ready_s: float
    process: subprocess.Popen[bytes] | None = None

    def address(self, protocol: str) -> str:
        return self.http if protocol == "HTTP" else self.grpc

    @property
    def ports(self) -> tuple[int, int]:
        http, grpc = (int(address.rpartition(":")[2]) for address in (self.http, self.grpc))
        return http, grpc


class ServerFailed(DebiexportError):
    """A server ended before it was ready, or takes too long; the message is the end of its log."""


@contextmanager
def embedded(
    bundles: Sequence[str], threads: int, log: Path, options: Sequence[str] = (), ports: tuple[int, int] = (0, 0)
) -> Iterator[Server]:
    """`debiexport serve`, ready; how it ends is the caller's to look at.

    Args:
        bundles: NAME=BUNDLE.
        threads: of ONNX Runtime.
        log: a file for what it says.
        options: more of its command line.
        ports: of HTTP and gRPC, 0 for any.

    Raises:
        ServerFailed: it is not ready in time.
    """
    command = [sys.executable, "-m", "debiexport", "serve", *bundles, "--threads", str(threads), "--json"]
    command += ["--port", str(ports[0]), "--grpc-port", str(ports[1]), "--metrics-port", "0", *options]
    begun = time.monotonic()
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
    try:
        line = _first_line(process, log)
        ready_s = time.monotonic() - begun
        said = json.loads(line)
        http, grpc = (f"127.0.0.1:{said[name]}" for name in ("port", "grpc_port"))
        yield Server(http, grpc, process.pid, ready_s, process)
    finally:
        end(process)


@contextmanager
def floor(bundle: str, threads: int, log: Path) -> Iterator[Server]:
    """`serving_floor.py` with one bundle, over HTTP only.

    Raises:
        ServerFailed: it is not ready in time.
    """
    command = [sys.executable, str(Path(__file__).with_name("serving_floor.py")), bundle, str(threads)]
    begun = time.monotonic()
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
    try:
        http = f"127.0.0.1:{int(_first_line(process, log))}"
        yield Server(http, "", process.pid, time.monotonic() - begun, process)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Let a server end by itself, and end it where it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _first_line(process: subprocess.Popen[bytes], log: Path) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], READY_S)
    line = process.stdout.readline() if ready else b""
    if not line:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ServerFailed(f"{process.args[1:4]} is not ready: {' '.join(said[-3:])[-500:] or 'it said nothing'}")
    return line


def why_no_triton() -> str | None:
    """Why the real Triton cannot be measured here; None where it can."""
    import real_triton

    if (real_triton.FOLDER / "installation.json").is_file():
        return None
    reason: str | None = real_triton.installer().why_not_here()
    return reason or f"the real Triton is not installed: run {real_triton.INSTALL}"


@contextmanager
def triton(bundles: Sequence[str], threads: int, folder: Path) -> Iterator[Server]:
    """The real Triton over a repository of the bundles, with its stand-in for the ONNX Runtime backend.

    The queue policy is taken out: with one, a single instance and requests that follow answers at once, the batcher of
    Triton 2.51 misses some of them until its own wait of half a second ends.

    Args:
        bundles: NAME=BUNDLE.
        threads: of ONNX Runtime.
        folder: for the repository and the log; they must not be there yet.

    Raises:
        ServerFailed: it refuses the repository.
    """
    import real_triton

    repository = folder / "repository"
    write_repository(bundles, repository, options=ServingOptions(threads=threads))
    for path in repository.glob("*/config.pbtxt"):
        config = from_text(path.read_text(encoding="utf-8"))
        config.dynamic_batching.ClearField("default_queue_policy")
        path.write_text(to_text(config), encoding="utf-8")
    begun = time.monotonic()
    try:
        with real_triton.real_triton(repository, folder / "triton.log") as ports:
            ready_s = time.monotonic() - begun
            yield Server(ports.http, ports.grpc, _listener(ports.http), ready_s)
    except real_triton.TritonFailed as error:
        raise ServerFailed(" ".join(str(error).split())[:500]) from None


def _listener(address: str) -> int:
    """The child of this process that was told to listen there."""
    port = f"--http-port={address.rpartition(':')[2]}".encode()
    for pid in _descendants(os.getpid()):
        with suppress(OSError):
            if port in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    raise ServerFailed(f"no process listens at {address}: Triton ended")


def _descendants(pid: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


class Memory:
    """The resident memory of a server and its children, and its peak since this was made.

    Args:
        pid: of the server. Its peak is set back to what it holds now.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.reset()

    def reset(self) -> None:
        for pid in self._pids():
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        self.before_mib = self._sum("VmRSS:")

    @property
    def now_mib(self) -> float:
        return self._sum("VmRSS:")

    @property
    def peak_mib(self) -> float:
        """The sum of the peaks of all processes, which need not have been at the same moment."""
        return self._sum("VmHWM:")

    def to_dict(self) -> dict[str, Any]:
        before, peak = round(self.before_mib, 1), round(self.peak_mib, 1)
        return {"before_mib": before, "peak_mib": peak, "growth_mib": round(peak - before, 1)}

    def _pids(self) -> list[int]:
        return [self._pid, *_descendants(self._pid)]

    def _sum(self, field: str) -> float:
        total = 0
        for pid in self._pids():
            with suppress(OSError, ValueError, IndexError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += next(int(line.split()[1]) for line in [*lines, f"{field} 0"] if line.startswith(field))
        return total / 1024
