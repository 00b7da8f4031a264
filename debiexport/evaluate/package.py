"""A saved .mlpackage: a folder whose manifest names a model, and whose model names files of weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from debiexport.errors import BundleError

MAX_MANIFEST_BYTES = 2**20
MAX_MODEL_BYTES = 256 * 2**20  # without weights: those lie in files of their own
_MODEL_FOLDER = "@model_path/"


@dataclass(frozen=True)
class Package:
    """A package whose manifest and files are there; their content is not read yet.

    Attributes:
        path: its folder.
        model: the file of the program.
    """

    path: Path
    model: Path

    @property
    def weights(self) -> Path:
        """Where the weights lie; the file is not there if no constant is large."""
        return self.model.parent / "weights" / "weight.bin"

    def read_model(self) -> bytes:
        """The bytes of the program's file.

        Raises:
            BundleError: it cannot be read, or is larger than `MAX_MODEL_BYTES`.
        """
        return _read(self.model, MAX_MODEL_BYTES)

    def weight_file(self, name: str) -> Path:
        """The file that the program calls `name`, as in "@model_path/weights/weight.bin".

        Raises:
            BundleError: the name points outside the package, or there is no such file.
        """
        if not name.startswith(_MODEL_FOLDER):
            raise BundleError(f"{self.path} keeps weights in {name!r}, not beside its model: export it again")
        path = _inside(self.path, self.model.parent, name.removeprefix(_MODEL_FOLDER))
        if not path.is_file():
            raise BundleError(f"{self.path} lacks {name.removeprefix(_MODEL_FOLDER)!r}: copy the whole folder")
        return path


def open_package(path: Path) -> Package:
    """Find the model of a package.

    Raises:
        BundleError: not a folder; no manifest, or one that is damaged or of something else; no model.
    """
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder: give the .mlpackage itself")
    manifest = path / "Manifest.json"
    if not manifest.is_file():
        raise BundleError(f"{path} has no Manifest.json: it is no .mlpackage, or only part of one was copied")
    _inside(path, path, manifest.name)
    model = _inside(path, path / "Data", _root_item(manifest))
    if not model.is_file():
        raise BundleError(
            f"{path} lacks {model.relative_to(path).as_posix()!r}: copy the whole folder, or export again"
        )
    return Package(path, model)


def _root_item(manifest: Path) -> str:
    """Path, relative to Data, of the item that the manifest calls the model."""
    try:
        content = json.loads(_read(manifest, MAX_MANIFEST_BYTES))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{manifest} is not JSON: copy the package again, or export again") from error
    if not isinstance(content, dict) or not str(content.get("fileFormatVersion")).startswith("1."):
        raise BundleError(f"{manifest} is not the manifest of a .mlpackage of format 1: export again")
    items, root = content.get("itemInfoEntries"), content.get("rootModelIdentifier")
    item = items.get(root) if isinstance(items, dict) and isinstance(root, str) else None
    relative = item.get("path") if isinstance(item, dict) else None
    if not isinstance(relative, str):
        raise BundleError(f"{manifest} names no model: export the package again")
    return relative


def _inside(package: Path, folder: Path, relative: str) -> Path:
    """The path of an item, which has to stay in the package, also where links lead."""
    parts = PurePosixPath(relative)
    plain = relative and "\\" not in relative and "\0" not in relative
    if not plain or parts.is_absolute() or ".." in parts.parts:
        raise BundleError(f"{package} names the file {relative!r}, which may lie outside it: export it again")
    path = folder / parts
    try:
        outside = not path.resolve().is_relative_to(package.resolve())
    except (OSError, RuntimeError) as error:  # a link to itself, a name too long
        raise BundleError(f"{package} names the file {relative!r}, which cannot be: export it again") from error
    if outside:
        raise BundleError(f"{package} has a link {relative!r} that leads outside it: copy the files themselves")
    return path


def _read(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise BundleError(f"{path} has {size} bytes, allowed are {limit}: it is not what its name says")
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
