"""Moving what was staged into a repository that is there: all of it, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from debiexport.atomic import signals_held
from debiexport.errors import OutputError
from debiexport.triton.protos import CONFIG
from debiexport.triton.versions import check_unchanged

_Undo = Callable[[], object]


def staging_place(repository: Path) -> Path:
    """Where additions to a repository are put together: on its own file system, so that they can be moved in.

    Beside it, as Triton takes every folder inside for a model; inside it only where the repository is a file system
    of its own, such as a mounted volume, or the folder beside it cannot be written.
    """
    repository = repository.resolve()
    parent = repository.parent
    beside = parent.stat().st_dev == repository.stat().st_dev and os.access(parent, os.W_OK)
    return (parent if beside else repository) / f"{repository.name}.adding"


def merge(staged: Path, repository: Path) -> None:
    """Move models, and versions of models, into a repository.

    The configuration goes first: one that speaks of a version that is not there yet does no harm. Whatever fails, what
    was done is undone; Ctrl-C and SIGTERM wait, as this takes no time.

    Args:
        staged: a folder for each model, with its configuration and new versions.

    Raises:
        OutputError: the repository cannot be written, or has changed meanwhile.
    """
    done: list[_Undo] = []
    with signals_held():
        try:
            for model in sorted(staged.iterdir()):
                there = repository / model.name
                if there.exists():
                    _add_versions(model, there, done)
                else:
                    _move(model, there, done)
        except BaseException as error:
            for undo in reversed(done):
                undo()
            if isinstance(error, OSError):
                raise OutputError(
                    f"--output {repository} cannot be written ({error.strerror or error}): nothing in it was changed;"
                    " check its permissions and space"
                ) from error
            raise


def _add_versions(model: Path, there: Path, done: list[_Undo]) -> None:
    config, new = there / CONFIG, model / CONFIG
    check_unchanged(there, new.read_text(encoding="utf-8"))
    old = model / f"{CONFIG}.old"
    shutil.copy2(config, old)
    shutil.copymode(config, new)
    new.replace(config)
    done.append(lambda: old.replace(config))
    for version in sorted(path for path in model.iterdir() if path.is_dir()):
        _move(version, there / version.name, done)


def _move(source: Path, destination: Path, done: list[_Undo]) -> None:
    if os.path.lexists(destination):  # an empty folder would be replaced without a word
        raise OutputError(f"{destination} has appeared meanwhile: run the command again")
    source.rename(destination)

    def back() -> None:
        with suppress(OSError):
            destination.rename(source)

    done.append(back)
