"""Processes that stand in for the worker of TensorRT for RTX, one for each way in which it may end."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path

from debiexport.targets.tensorrt import rtx_worker
from debiexport.targets.tensorrt.rtx_report import RtxBuild

MARK = "FAKE_RTX_MARK"
"""Variable with the name of a file into which the process writes its number."""


def worker(behaviour: str) -> tuple[str, ...]:
    """The command of a worker that behaves so."""
    folder = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import fake_rtx; fake_rtx.behave(*sys.argv[1:])"
    return (sys.executable, "-c", code, behaviour)


def behave(behaviour: str, request: str, reply: str) -> None:
    """Do what a worker does that is asked, in one of these ways."""
    if mark := os.environ.get(MARK):
        Path(mark).write_text(str(os.getpid()))
    match behaviour:
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exits":
            sys.exit("the builder gave up")
        case "has no memory":
            _replace_build(MemoryError())
            _real(request, reply)
        case "throws":
            os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n")
            os.kill(os.getpid(), signal.SIGABRT)
        case "is surprised":
            _replace_build(ValueError("two\nlines"))
            _real(request, reply)
        case "has a full disk":
            Path.write_bytes = _full  # type: ignore[assignment]
            _real(request, reply)
        case "is mute":
            pass
        case "talks":
            Path(reply).write_text("no JSON")
        case "answers otherwise":
            Path(reply).write_text('{"kind": "refused"}')
        case "reports otherwise":
            Path(reply).write_text('{"build": {"version": 1}}')
        case "hangs":
            time.sleep(600)
        case "does not load":
            sys.modules["tensorrt_rtx"] = None  # type: ignore[assignment]
            _real(request, reply)
        case "waits for ever":  # the real one, in the midst of a build
            _replace_build(None)
            _real(request, reply)
        case _:
            raise ValueError(behaviour)


def _replace_build(error: Exception | None) -> None:
    """Let a build raise the error, or last for ever."""

    def build(request: object) -> RtxBuild:
        if error is not None:
            raise error
        time.sleep(600)
        raise TimeoutError

    rtx_worker.build = build


def _full(path: Path, content: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _real(request: str, reply: str) -> None:
    sys.exit(rtx_worker.main([request, reply]))
