"""Ctrl-C and SIGTERM: at once, after an import, and not at all."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from debiexport.interruption import SIGNALS, Interruptible

MODULE = """
import signal
signal.raise_signal({number})
signal.raise_signal({number})
whole = True
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to import modules from."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def raise_and_wait(number: int) -> None:
    signal.raise_signal(number)
    time.sleep(5)


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interruptible():
        raise_and_wait(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_after_the_import(number: int, folder: Path) -> None:
    name = f"interrupted_{int(number)}"
    (folder / f"{name}.py").write_text(MODULE.format(number=int(number)))
    before, begun = signal.getsignal(number), time.monotonic()

    def work() -> None:
        __import__(name)
        time.sleep(30)

    with pytest.raises(KeyboardInterrupt), Interruptible():
        work()
    assert time.monotonic() - begun < 30
    assert sys.modules[name].whole is True
    assert signal.getsignal(number) is before


def test_what_has_waited_is_raised_when_asked_for(folder: Path) -> None:
    """As where the imports of a command line end before it begins."""
    (folder / "asked_for.py").write_text(MODULE.format(number=int(signal.SIGTERM)))

    def work() -> None:
        with Interruptible():
            __import__("asked_for")
            with Interruptible() as inner:
                inner.raise_waiting()
                time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_nothing_is_left_of_a_signal_that_came_too_late(folder: Path) -> None:
    (folder / "too_late.py").write_text(MODULE.format(number=int(signal.SIGTERM)))
    try:
        with Interruptible():
            __import__("too_late")
    except KeyboardInterrupt:  # the machine was slow enough for it to come in time
        pass
    with Interruptible() as later:
        later.raise_waiting()
        time.sleep(0.05)


def test_an_import_that_the_caller_is_part_of_is_no_reason_to_wait(folder: Path) -> None:
    (folder / "caller.py").write_text(
        "import signal, time\n"
        "from debiexport.interruption import Interruptible\n"
        "try:\n"
        "    with Interruptible():\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        time.sleep(0.001)\n"
        "        stopped = False\n"
        "except KeyboardInterrupt:\n"
        "    stopped = True\n"
    )
    assert __import__("caller").stopped is True


def test_told_once() -> None:
    with Interruptible() as interruptible:
        interruptible.ignore()
        for number in SIGNALS:
            signal.raise_signal(number)
        time.sleep(0.001)


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_was_exchanged_meanwhile_stays() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with Interruptible():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_change_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with Interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
