"""Ctrl-C and SIGTERM: one exception, which waits for the end of an import.

An import that is broken off ends in whatever the libraries make of it: a module that is half there, an ImportError, a
line that nobody understands when Python ends. So the handlers look for an import in progress, and if there is one,
the signal is sent again a little later. They run between two statements of Python, so a library that is being loaded
or a long computation of a runtime delays them as ever.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGAIN_S = 0.01
_IMPORTING = "importlib._bootstrap"

_waiting: set[int] = set()  # arrived during an import, and not acted upon yet
_sending = _thread.allocate_lock()  # so that none is sent once nobody listens any more


class Interruptible:
    """Within it Ctrl-C and SIGTERM raise KeyboardInterrupt in the main thread, but never in the midst of an import.

    Not an exception of ours: torch.onnx takes every Exception for a reason to try another way of tracing. A signal
    that the process was started to ignore stays ignored. In other threads nothing is changed.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._base: FrameType | None = None
        self._deaf = False

    def __enter__(self) -> Interruptible:
        self._base = sys._getframe(1)  # an import that the caller is part of will not end before it
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None is a handler that Python cannot put back
                    self._before[number] = before
                    signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deaf = True
        with _sending:
            _waiting.clear()  # what it was meant for is done
        for number, before in self._before.items():
            if signal.getsignal(number) == self._arrived:  # else somebody exchanged it meanwhile, to stay
                signal.signal(number, before)
        self._before.clear()
        self._base = None

    def raise_waiting(self) -> None:
        """Raise KeyboardInterrupt if a signal arrived during an import, which has ended since."""
        if _waiting:
            _waiting.clear()
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From now on nothing is raised: the interruption is being told."""
        self._deaf = True

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._deaf:
            return
        if not _importing(frame, self._base):
            _waiting.clear()
            raise KeyboardInterrupt
        if number not in _waiting:
            _waiting.add(number)
            _thread.start_new_thread(_send_again, (number,))  # threading's locks may be held by who was interrupted


def ignore_signals() -> None:
    """Let Ctrl-C and SIGTERM do nothing until the process ends: the work is done, and its exit code is known."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _importing(frame: FrameType | None, base: FrameType | None) -> bool:
    """Whether a module is being imported in a frame or in one that called it, up to the base."""
    while frame is not None and frame is not base:
        if _IMPORTING in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    time.sleep(AGAIN_S)
    with _sending:
        if number not in _waiting:
            return
        _waiting.discard(number)
        if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident) is not None:
            signal.pthread_kill(main, number)  # it may be waiting for a process, from which only this wakes it
        else:
            _thread.interrupt_main(signal.Signals(number))
