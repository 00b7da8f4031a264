"""Folders appear whole or not at all: after errors, full disks, failed renames and signals at any moment."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from debiexport import atomic
from debiexport.atomic import StagedFolder, check_destination, staged_file, staged_folder
from debiexport.errors import Interrupted, OutputError

MARKER = "manifest.json"


def write(destination: Path, text: str = "new", *, force: bool = False, unverified: bool = False) -> Path:
    with staged_folder(destination, force=force, marker=MARKER) as staged:
        (staged.path / MARKER).write_text(text)
        (staged.path / "model").write_text(text)
        return staged.commit_unverified() if unverified else staged.commit()


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text; folders end in a slash."""
    return {
        f"{path.relative_to(folder)}" + ("/" if path.is_dir() else ""): "" if path.is_dir() else path.read_text()
        for path in sorted(folder.rglob("*"))
    }


def bundle(name: str, text: str) -> dict[str, str]:
    return {f"{name}/": "", f"{name}/{MARKER}": text, f"{name}/model": text}


# -------------------------------------------------------------------------------------- committing


def test_commit(tmp_path: Path) -> None:
    assert write(tmp_path / "out") == tmp_path / "out"
    assert content(tmp_path) == bundle("out", "new")


def test_parents_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    assert content(tmp_path) == {"a/": "", "a/b/": ""} | {f"a/b/{k}": v for k, v in bundle("out", "new").items()}


def test_folder_has_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


def test_relative_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write(Path("x/../out")) == tmp_path / "out"
    assert content(tmp_path) == bundle("out", "new")


def test_uncommitted_leaves_nothing(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "a" / "out", marker=MARKER) as staged:
        (staged.path / "model").write_text("x")
    assert content(tmp_path) == {}


def test_commit_unverified(tmp_path: Path) -> None:
    assert write(tmp_path / "out", unverified=True) == tmp_path / "out.unverified"
    assert write(tmp_path / "out", "newer", unverified=True) == tmp_path / "out.unverified"
    assert content(tmp_path) == bundle("out.unverified", "newer")


def test_unverified_leaves_the_good_one_alone(tmp_path: Path) -> None:
    write(tmp_path / "out", "good")
    write(tmp_path / "out", "bad", force=True, unverified=True)
    assert content(tmp_path) == bundle("out", "good") | bundle("out.unverified", "bad")


# --------------------------------------------------------------------------------- existing places


def test_existing_is_refused_without_force(tmp_path: Path, one_line: Callable[[BaseException], str]) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "out")
    assert caught.value.exit_code == 2
    assert "--force" in one_line(caught.value)
    assert content(tmp_path) == bundle("out", "old")


def test_force_replaces_a_bundle(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "more").write_text("old")
    write(tmp_path / "out", force=True)
    assert content(tmp_path) == bundle("out", "new")


def test_force_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", force=True)
    assert content(tmp_path) == bundle("out", "new")


@pytest.mark.parametrize("marker_is", ["absent", "a folder"])
def test_force_never_replaces_other_folders(
    tmp_path: Path, one_line: Callable[[BaseException], str], marker_is: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    if marker_is == "a folder":
        (tmp_path / "out" / MARKER).mkdir()
    before = content(tmp_path)
    with pytest.raises(OutputError, match=MARKER) as caught:
        write(tmp_path / "out", force=True)
    one_line(caught.value)
    assert content(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
def test_the_place_of_an_unverified_one_is_guarded_too(tmp_path: Path, force: bool) -> None:
    (tmp_path / "out.unverified").mkdir()
    (tmp_path / "out.unverified" / "thesis.tex").write_text("years of work")
    before = content(tmp_path)
    with pytest.raises(OutputError, match=r"out\.unverified"):
        write(tmp_path / "out", force=force, unverified=True)
    assert content(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["file", "link to a bundle", "dangling link"])
def test_files_and_links_are_refused(tmp_path: Path, force: bool, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        write(tmp_path / "other", "old")
        out.symlink_to(tmp_path / "other")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(OutputError):
        write(out, force=force)
    with pytest.raises(OutputError):
        check_destination(out, force=force, marker=MARKER)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_force_is_no_advice_for_what_is_no_bundle(tmp_path: Path, one_line: Callable[[BaseException], str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(OutputError, match=r"is no bundle: it holds no manifest\.json") as caught:
            check_destination(tmp_path / "out", force=force, marker=MARKER)
        assert "--force" not in one_line(caught.value)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists and cannot be read"):
        check_destination(tmp_path / "out", force=False, marker=MARKER)


# ------------------------------------------------------------------------------------ single files


def write_file(destination: Path, text: str = "new") -> None:
    with staged_file(destination, "--json-file") as staged:
        staged.commit(text)


@pytest.mark.parametrize("there", [True, False])
def test_a_file_is_written_or_kept(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "out.json"
    if there:
        path.write_text("old")
    with staged_file(path, "--json-file"):
        pass
    assert content(tmp_path) == ({"out.json": "old"} if there else {})
    write_file(path)
    assert content(tmp_path) == {"out.json": "new"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file_is_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if there:
        (tmp_path / "a" / "real.json").write_text("old")
    link = tmp_path / "b" / "out.json"
    link.symlink_to(Path("..") / "a" / "real.json")
    write_file(link)
    assert link.is_symlink()
    assert (tmp_path / "a" / "real.json").read_text() == "new"
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["out.json"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["real.json"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("folder", "it is a folder"),
        ("FIFO", "it is no regular file"),
        ("link to a folder", "it is a folder"),
        ("link to a FIFO", "it is no regular file"),
        ("link to itself", "symbolic links"),
        ("link to nowhere/file", "No such file or directory"),
    ],
)
def test_what_is_no_file_is_refused_before_the_work(
    tmp_path: Path, kind: str, words: str, one_line: Callable[[BaseException], str]
) -> None:
    path, real = tmp_path / "out.json", tmp_path / "real"
    place = real if kind.startswith("link") else path
    if kind.endswith("folder"):
        place.mkdir()
    elif kind.endswith("FIFO"):
        os.mkfifo(place)
    if kind.startswith("link"):
        path.symlink_to({"link to itself": path, "link to nowhere/file": tmp_path / "nowhere" / "file"}.get(kind, real))
    before = {p.name: p.lstat().st_mode for p in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=words) as caught, staged_file(path, "--json-file"):
        raise AssertionError("the work has begun")
    assert caught.value.exit_code == 2
    assert f"--json-file {path} cannot be written" in one_line(caught.value)
    assert {p.name: p.lstat().st_mode for p in tmp_path.iterdir()} == before


# ------------------------------------------------------------------------- places that do not work


@pytest.mark.parametrize("below", ["file", "file/a/b", "x" * 300, "a/" + "x" * 300, "a/b/" + "x" * 300 + "/c"])
def test_unwritable_places(tmp_path: Path, one_line: Callable[[BaseException], str], below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write(tmp_path / below / "out")
    assert caught.value.exit_code == 2
    one_line(caught.value)
    assert content(tmp_path) == {"file": "mine"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses everybody")
@pytest.mark.parametrize("place", ["/proc/out", "/proc/a/b/out"])
def test_file_system_that_refuses(place: str) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write(Path(place))


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted, SystemExit, MemoryError])
@pytest.mark.parametrize("force", [False, True])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException], force: bool) -> None:
    if force:
        write(tmp_path / "out", "old")
    place = tmp_path / "out" if force else tmp_path / "a" / "b" / "out"
    before = content(tmp_path)

    def fail() -> None:
        with staged_folder(place, force=force, marker=MARKER) as staged:
            (staged.path / "deep" / "er").mkdir(parents=True)
            (staged.path / "deep" / "er" / "model").write_text("half")
            raise error("stop")

    with pytest.raises(error):
        fail()
    assert content(tmp_path) == before


def test_a_full_disk_is_told(tmp_path: Path, one_line: Callable[[BaseException], str]) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "a" / "out", marker=MARKER) as staged:
            (staged.path / "model").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staged.path / "model"))

    with pytest.raises(OutputError, match="No space left") as caught:
        fail()
    assert caught.value.exit_code == 2
    assert "choose another folder" in one_line(caught.value)
    assert content(tmp_path) == {}


def failing_rename(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Let the renames of these numbers fail, counted from 1."""
    rename, count = Path.rename, 0

    def fake(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count in calls:
            raise OSError(errno.EIO, "broken disk", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fake)


@pytest.mark.parametrize("call", [1, 2])
def test_a_failed_rename_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    write(tmp_path / "out", "old")
    failing_rename(monkeypatch, call)
    with pytest.raises(OutputError, match="broken disk"):
        write(tmp_path / "out", force=True)
    assert content(tmp_path) == bundle("out", "old")


def test_the_old_folder_is_never_deleted_before_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", "old")
    failing_rename(monkeypatch, 2, 3)  # neither the new one in nor the old one back
    with pytest.raises(OutputError):
        write(tmp_path / "out", force=True)
    (kept,) = tmp_path.glob(".out.*.old/old")
    assert (kept / "model").read_text() == "old"


def test_a_failed_first_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_rename(monkeypatch, 1)
    with pytest.raises(OutputError):
        write(tmp_path / "a" / "out")
    assert content(tmp_path) == {}


# ----------------------------------------------------------------------------------------- signals


@pytest.fixture
def second_thread() -> Iterator[None]:
    """A thread that may take signals, as the runtimes have: a signal masked in one is delivered to another."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


class _Sender:
    """Sends a signal to this process at the n-th event of a line or call in atomic.py."""

    def __init__(self, number: int, event: int) -> None:
        self.number, self.left = number, event

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != atomic.__file__:
            return None
        if event in ("call", "line"):
            self.left -= 1
        if self.left == 0:
            self.left = -1
            os.kill(os.getpid(), self.number)
            time.sleep(0.001)  # another thread may be the one that takes it
        return self.trace

    def run(self, function: Callable[[], object]) -> BaseException | None:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            function()
        except (KeyboardInterrupt, Interrupted) as error:
            return error
        finally:
            sys.settrace(before)
        return None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted("terminated")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("case", ["new", "replaced", "unverified", "uncommitted"])
@pytest.mark.usefixtures("second_thread")
def test_a_signal_at_any_statement(tmp_path: Path, number: int, case: str) -> None:
    """Whenever it arrives, there is the old content or the new one, nothing beside, and it is not lost."""

    def work(folder: Path) -> None:
        if case == "uncommitted":
            with staged_folder(folder / "a" / "b" / "out", marker=MARKER) as staged:
                (staged.path / MARKER).write_text("half")
        elif case == "unverified":
            write(folder / "a" / "out", unverified=True)
        else:
            write(folder / "out" if case == "replaced" else folder / "a" / "out", force=case == "replaced")

    def prepare(folder: Path) -> dict[str, str]:
        folder.mkdir()
        if case == "replaced":
            write(folder / "out", "old")
        return content(folder)

    prepare(tmp_path / "whole")
    work(tmp_path / "whole")
    new = content(tmp_path / "whole")

    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _terminate)
    outcomes = []
    try:
        for event in range(1, 1000):
            folder = tmp_path / str(event)
            old = prepare(folder)
            sender = _Sender(number, event)
            error = sender.run(lambda folder=folder: work(folder))  # type: ignore[misc]
            if sender.left > 0:  # the work was done before its turn came
                break
            found = content(folder)
            assert error is not None, event
            assert found in (old, new), event
            outcomes.append(found == new)
            assert signal.getsignal(signal.SIGTERM) is _terminate, event
            assert signal.getsignal(signal.SIGINT) is handlers[signal.SIGINT], event
    finally:
        for n, handler in handlers.items():
            signal.signal(n, handler)
    assert len(outcomes) > 30
    assert not outcomes[0] or new == old
    assert outcomes[-1]


def test_other_threads_can_write_too(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            write(tmp_path / "out")
            write(tmp_path / "out", "newer", force=True)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert content(tmp_path) == bundle("out", "newer")


def test_commit_returns_where_it_went(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    assert StagedFolder(source, tmp_path / "out").commit() == tmp_path / "out"
