"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp, mkstemp
from types import FrameType
from typing import Any

from debiexport.errors import DebiexportError, OutputError

UNVERIFIED = ".unverified"


class StagedFile:
    """A temporary file beside its destination, written and then renamed; see `staged_file`."""

    def __init__(self, path: Path, target: Path, destination: Path, option: str) -> None:
        self.path, self.target, self.destination, self._option = path, target, destination, option

    def commit(self, text: str) -> None:
        """Write the text and put the file in its place, replacing what is there.

        Raises:
            OutputError: that fails, as on a full disk.
        """
        try:
            self.path.write_text(text, encoding="utf-8")
            self.path.replace(self.target)
        except OSError as error:
            raise _refuse_file(self.destination, self._option, error) from error


@contextmanager
def staged_file(destination: Path, option: str) -> Iterator[StagedFile]:
    """Make sure that a file can be written before the work that it is to hold, and write it whole or not at all.

    Args:
        destination: the file to be; what is there is replaced by `commit`, and kept if there is none. A link stays,
            and what it points to is written.
        option: that named it, for the message.

    Raises:
        OutputError: it is no regular file, such as a folder or a device, or cannot be written.
    """
    temporary: Path | None = None
    try:
        try:
            target = _writable_file(destination)
            with signals_held():
                descriptor, name = mkstemp(prefix=".debiexport.", suffix=".partial", dir=target.parent)
                temporary = Path(name)
                os.close(descriptor)
            temporary.chmod(0o666 & ~_umask())
        except OSError as error:
            raise _refuse_file(destination, option, error) from error
        yield StagedFile(temporary, target, destination, option)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _writable_file(destination: Path) -> Path:
    """The file that a path is, or that it points to as a link; it need not be there yet. Opens nothing."""
    with suppress(FileNotFoundError):
        mode = destination.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(mode):  # renaming a file onto a device would do away with the device
            raise OSError(errno.EINVAL, "it is no regular file")
        if not os.access(destination, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return Path(os.path.realpath(destination))


def _refuse_file(destination: Path, option: str, error: OSError) -> OutputError:
    return OutputError(f"{option} {destination} cannot be written ({error.strerror or error}): choose another path")


class StagedFolder:
    """A temporary folder beside its destination, filled and then renamed; see `staged_folder`."""

    def __init__(self, path: Path, destination: Path) -> None:
        self.path, self.destination = path, destination

    def commit(self) -> Path:
        """Put the folder in its place, replacing what is there, and return the place."""
        return _move_into_place(self.path, self.destination)

    def commit_unverified(self) -> Path:
        """Put the folder beside its place, marked as not to be used, and return where."""
        return _move_into_place(self.path, _unverified(self.destination))


def check_destination(destination: Path, *, force: bool, marker: str) -> None:
    """Refuse a destination that exists.

    Args:
        destination: a folder that is to be written.
        force: whether an existing folder may be replaced; only one that holds `marker` may, so that a
            mistyped path never deletes somebody's work.

    Raises:
        OutputError: it exists.
    """
    if not os.path.lexists(destination):  # False for names that no file can have: writing them fails later
        return
    if not destination.is_dir() or destination.is_symlink():
        raise OutputError(f"--output {destination} exists and is not a folder: choose another path")
    try:
        is_ours = (destination / marker).is_file() or not any(destination.iterdir())
    except OSError as error:
        raise OutputError(f"--output {destination} exists and cannot be read: choose another folder") from error
    if not is_ours:
        raise OutputError(
            f"--output {destination} exists and is no bundle: it holds no {marker}, so it is never replaced: choose"
            " another folder"
        )
    if not force:
        raise OutputError(f"--output {destination} exists: choose another folder, or replace it with --force")


@contextmanager
def staged_folder(destination: Path, *, force: bool = False, marker: str) -> Iterator[StagedFolder]:
    """Write a folder so that nothing half-written survives an error, a full disk or a signal.

    The body fills `staged.path` and ends with `staged.commit()` or `staged.commit_unverified()`; whatever
    is not committed is removed.

    Args:
        destination: the folder to be.
        force: replace an existing folder that holds `marker`.
        marker: name of a file that every such folder holds.

    Raises:
        OutputError: the destination exists, or cannot be written.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - resolve() would follow links
    check_destination(destination, force=force, marker=marker)
    check_destination(_unverified(destination), force=True, marker=marker)  # an earlier one may go
    parents: list[Path] = []
    temporary: Path | None = None
    try:
        try:
            with signals_held():
                _make_parents(destination.parent, parents)
                temporary = Path(mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
                temporary.chmod(0o755 & ~_umask())
            yield StagedFolder(temporary, destination)
        except OSError as error:
            raise _explain(error, destination) from error
        finally:
            _clean_up(temporary, parents)
    except BaseException:
        _clean_up(temporary, parents)  # again, as a signal may have stopped it
        raise


def _explain(error: OSError, destination: Path) -> DebiexportError:
    where = str(error.filename or "")
    if f".{destination.name}." in where:  # the temporary folder, whose name says nothing
        where = ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return OutputError(
        f"--output {destination} cannot be written ({error.strerror or error}{where and f', at {where}'}):"
        f" {'free some space or ' if full else ''}choose another folder"
    )


def _unverified(destination: Path) -> Path:
    return destination.with_name(destination.name + UNVERIFIED)


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Create a folder and its parents; those that were not there are added to `made`, outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        made.append(path)


def _clean_up(temporary: Path | None, parents: list[Path]) -> None:
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
    for folder in reversed(parents):
        with suppress(OSError):  # not empty: something was committed there
            folder.rmdir()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _move_into_place(source: Path, destination: Path) -> Path:
    with signals_held():
        if not destination.exists():
            source.rename(destination)
            return destination
        # Two renames, the old folder aside and the new one in; signals wait meanwhile.
        aside = Path(mkdtemp(prefix=f".{destination.name}.", suffix=".old", dir=destination.parent))
        try:
            destination.rename(aside / "old")
            try:
                source.rename(destination)
            except OSError:
                (aside / "old").rename(destination)
                raise
        except OSError:
            with suppress(OSError):  # not empty: the old folder could not go back, and stays there
                aside.rmdir()
            raise
        shutil.rmtree(aside, ignore_errors=True)
    return destination


@contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done.

    Their handlers are exchanged: a signal mask would be of one thread only, and the runtimes have others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def hold(arriving: int, frame: FrameType | None) -> None:
        arrived.append(arriving)

    handlers: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler is not None:  # None is a handler that Python cannot put back
                handlers[number] = handler
                signal.signal(number, hold)
        yield
    finally:
        try:
            _set_handlers(handlers)
        finally:
            _set_handlers(handlers)  # again, as a signal may have stopped it
        for first in arrived[:1]:
            signal.raise_signal(first)


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
