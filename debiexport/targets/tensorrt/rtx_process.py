"""Asking TensorRT for RTX in a process of its own; whatever ends that process is an error, not the end of this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from debiexport.errors import EngineError

WORKER = (sys.executable, "-m", "debiexport.targets.tensorrt.rtx_worker")
MEMORY_ADVICE = "there was not enough memory, it seems: free some, or build for fewer GPUs"

_LIBRARY = "libtensorrt_rtx.so"
_PATH = "LD_LIBRARY_PATH"


def ask(request: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
    """What the worker answers to a request; see `rtx_worker.answer`.

    Raises:
        EngineError: the process died, or had not answered in time; in either case it has ended.
    """
    with tempfile.TemporaryDirectory(prefix="debiexport-") as name:
        folder = Path(name)
        given, reply, log = folder / "request.json", folder / "reply.json", folder / "log"
        given.write_text(json.dumps(request), encoding="utf-8")
        with log.open("wb") as words:
            process = subprocess.Popen(
                (*WORKER, str(given), str(reply)),
                stdin=subprocess.PIPE,  # its end is the end of the worker
                stdout=words,
                stderr=words,
                env={**os.environ, **loader_path(folder)},
            )
            code = _wait(process, timeout_s)
        if code != 0:
            raise EngineError(f"the process of TensorRT for RTX {_end(code, log)}")
        return _read(reply)


def loader_path(folder: Path) -> dict[str, str]:
    """Variables for a process in which TensorRT for RTX finds its own library.

    Its parser opens it at the first node of a plugin, by a name that bears no version; the package holds it by the
    one with the version only.

    Args:
        folder: where a folder with a link may be made.
    """
    spec = find_spec("tensorrt_rtx_libs")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    libraries = sorted(path for place in places for path in Path(place).glob(f"{_LIBRARY}.*"))
    if not libraries:
        return {}  # installed elsewhere, where the system's loader finds it by all its names
    links = folder / "lib"
    links.mkdir()
    (links / _LIBRARY).symlink_to(libraries[-1])
    return {_PATH: os.pathsep.join(filter(None, (str(links), os.environ.get(_PATH))))}


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Its exit status; the process has ended afterwards, also if Ctrl-C or the time ended the waiting."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"TensorRT for RTX was ended after {timeout_s:g} s without a result: allow more time, or build for fewer"
            " GPUs"
        ) from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _read(reply: Path) -> Mapping[str, Any]:
    try:
        answer = json.loads(reply.read_text(encoding="utf-8"))
        if not {"build"} <= set(answer) and not {"kind", "error"} <= set(answer):
            raise ValueError("neither a report nor an error")
    except (OSError, ValueError, TypeError) as error:
        raise EngineError("the process of TensorRT for RTX ended without an answer: try again") from error
    return dict(answer)


def _end(code: int, log: Path) -> str:
    """How the process ended, and what to do."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if code == -signal.SIGKILL or "bad_alloc" in last or "MemoryError" in last:
        return f"was ended: {MEMORY_ADVICE}"
    died = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
    words = f", its last words {last[:200]!r}" if last else ""
    return f"died: {died}{words}: try again, or export with another lowering"
