"""The process of TensorRT for RTX, with processes that stand in for it: whatever it does ends in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import fake_rtx
import onnx
import pytest
import rtx_models as models
from rtx_models import needs_rtx

from debiexport import extras
from debiexport.errors import EngineError, InputError, MissingDependencyError, OutputError, UsageError
from debiexport.interruption import Interruptible
from debiexport.targets.tensorrt import rtx, rtx_process
from debiexport.targets.tensorrt.rtx import build

OneLine = Callable[[BaseException], str]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its signals are those of POSIX")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(models.relu((2, 3)), path)
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """An older plan, which no failure may touch."""
    path = tmp_path / "model.plan"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def behaving(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setattr(rtx, "require", lambda *_: None)  # no process here needs the package
    return lambda behaviour: monkeypatch.setattr(rtx_process, "WORKER", fake_rtx.worker(behaviour))


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go; none may stay."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("crashes", r"RTX died: signal 11 \(Segmentation fault\): try again, or export with another lowering"),
        ("is killed", "RTX was ended: there was not enough memory, it seems: free some, or build for fewer GPUs"),
        ("has no memory", "RTX gave up: there was not enough memory, it seems: free some"),
        ("throws", "RTX was ended: there was not enough memory, it seems: free some"),
        ("is surprised", r"TensorRT for RTX failed \(ValueError: two lines\): try again, or export with another"),
        ("exits", "RTX died: exit status 1, its last words 'the builder gave up': try again"),
        ("is mute", "RTX ended without an answer: try again"),
        ("talks", "RTX ended without an answer"),
        ("answers otherwise", "RTX ended without an answer"),
        ("reports otherwise", r"the report of a build with TensorRT is damaged \(KeyError: 'profile'\): build again"),
        ("hangs", "RTX was ended after 1.5 s without a result: allow more time, or build for fewer GPUs"),
    ],
)
def test_a_process_that_fails(
    behaving: Callable[[str], None],
    model: Path,
    plan: Path,
    temporary: Path,
    one_line: OneLine,
    behaviour: str,
    words: str,
) -> None:
    behaving(behaviour)
    with pytest.raises(EngineError, match=words) as caught:
        build(model, plan, ["sm89"], timeout_s=1.5 if behaviour == "hangs" else 60)
    one_line(caught.value)
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.onnx", "model.plan", "temporary"]
    assert not any(temporary.iterdir())


@needs_rtx
def test_a_full_disk(behaving: Callable[[str], None], model: Path, plan: Path, one_line: OneLine) -> None:
    behaving("has a full disk")
    with pytest.raises(OutputError, match=r"model.plan cannot be written \(No space left on device\)") as caught:
        build(model, plan, ["sm89"])
    one_line(caught.value)
    assert plan.read_bytes() == b"old"


def test_a_package_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, model: Path, behaving: Callable[[str], None], one_line: OneLine
) -> None:
    behaving("does not load")
    with pytest.raises(
        MissingDependencyError, match=r"does not load \(.*\): pip install 'debiexport\[rtx\]', or"
    ) as caught:
        build(model, None, ["sm89"])
    one_line(caught.value)
    monkeypatch.setattr(rtx, "require", extras.require)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs tensorrt_rtx, not installed here: pip install 'debi.*rtx"):
        build(model, None, ["sm89"])


def test_what_is_refused_before_a_process_is_started(
    behaving: Callable[[str], None], model: Path, plan: Path, one_line: OneLine
) -> None:
    behaving("crashes")
    folder = plan.parent / "folder"
    folder.mkdir()
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: build(model, None, ["sm90"]), UsageError, "--gpu sm90 is not served"),
        (lambda: build(model, None, ["sm89"], profile=(2, 1, 4)), UsageError, "--batch 2:1:4 is no range"),
        (lambda: build(model, None, ["sm89"], profile=(0, 1, 4)), UsageError, "--batch 0:1:4 is no range"),
        (lambda: build(folder, None, ["sm89"]), InputError, "is no file: name an ONNX model"),
        (lambda: build(model, folder, ["sm89"]), OutputError, r"cannot be written \(it is a folder\)"),
        (lambda: build(model, folder / "no" / "p", ["sm89"]), OutputError, "no files can be made in"),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        one_line(caught.value)


def test_ctrl_c_ends_the_process(
    behaving: Callable[[str], None],
    model: Path,
    plan: Path,
    temporary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behaving("hangs")
    mark = tmp_path / "mark"
    monkeypatch.setenv(fake_rtx.MARK, str(mark))

    def interrupt() -> None:
        number_in(mark)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), Interruptible():
        build(model, plan, ["sm89"])
    thread.join()
    assert not is_running(number_in(mark))
    assert plan.read_bytes() == b"old" and not any(temporary.iterdir())


def test_the_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    given = tmp_path / "request.json"
    given.write_text("{}")
    process = subprocess.Popen(
        (*fake_rtx.worker("waits for ever"), str(given), str(tmp_path / "reply.json")),
        stdin=subprocess.PIPE,
        env={**os.environ, fake_rtx.MARK: str(mark)},
    )
    try:
        number_in(mark)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()


@needs_rtx
def test_the_loader_finds_the_library_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")
    links, rest = rtx_process.loader_path(tmp_path)["LD_LIBRARY_PATH"].split(":")
    assert rest == "/somewhere"
    library = Path(links) / "libtensorrt_rtx.so"
    assert library.is_symlink() and library.resolve().name == "libtensorrt_rtx.so.1"
    program = "import ctypes; ctypes.CDLL('libtensorrt_rtx.so')"
    environment = {**os.environ, "LD_LIBRARY_PATH": links}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


def test_a_library_of_the_system_is_left_to_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx_process, "find_spec", lambda name: None)
    assert rtx_process.loader_path(tmp_path) == {}
    assert not any(path.name == "lib" for path in tmp_path.iterdir())


def number_in(mark: Path) -> int:
    """What the process wrote, once it has."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if mark.exists() and (text := mark.read_text()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError("the process did not start")


def is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
