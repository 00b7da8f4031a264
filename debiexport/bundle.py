"""Bundles: a folder with a manifest and the artifacts it lists, refused if a byte has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from debiexport.atomic import UNVERIFIED
from debiexport.errors import BundleError, UsageError
from debiexport.geometry import Geometry
from debiexport.manifest import COREML, TENSORRT, Artifact, Manifest, read_manifest
from debiexport.runtimes.base import Runtime
from debiexport.runtimes.ort import CPU, OrtRuntime, refuse_external_data
from debiexport.signature import input_spec

MODEL, GOLDEN = "model", "golden"
ENGINE, TIMING_CACHE = "engine", "timing_cache"
PACKAGE = "model.mlpackage"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those of its manifest.

    Attributes:
        path: its folder.
        manifest: what it holds.
    """

    path: Path
    manifest: Manifest

    @property
    def geometry(self) -> Geometry:
        return Geometry.of(self.manifest.card, self.manifest.image_size)

    def file(self, role: str) -> Path:
        """Path of the first artifact of a role."""
        return self.path / self.manifest.artifact(role).path

    @property
    def models(self) -> tuple[Artifact, ...]:
        """What can be run: one model, or a model or function for each of several batches."""
        return tuple(artifact for artifact in self.manifest.artifacts if artifact.role == MODEL)

    @property
    def engines(self) -> tuple[Artifact, ...]:
        """What TensorRT made of the models, in their order; none where no engine was built."""
        return tuple(artifact for artifact in self.manifest.artifacts if artifact.role == ENGINE)

    def runtimes(self, threads: int | None = None, provider: str = CPU) -> Iterator[Runtime]:
        """Everything that can be run, one after the other.

        Raises:
            BundleError: the runtime refuses it, or its input or outputs are not those of the manifest.
            MissingDependencyError: a package that runs it is not here.
        """
        if self.manifest.target in (COREML, TENSORRT):
            yield from (self.evaluator(artifact, threads) for artifact in self.models)
        else:
            yield self.ort(threads, provider)

    def runtime(self, threads: int | None = None, provider: str = CPU) -> Runtime:
        """The first of `runtimes`."""
        return next(iter(self.runtimes(threads, provider)))

    def evaluator(self, artifact: Artifact, threads: int | None = None) -> Runtime:
        """A typed model or a function of a Core ML package, evaluated in torch; see `debiexport.evaluate`."""
        if self.manifest.target == TENSORRT:
            from debiexport.runtimes.typed import EvaluatedModel

            return EvaluatedModel(self.path / artifact.path, self.geometry, artifact, threads)
        from debiexport.runtimes.coreml import EvaluatedPackage

        return EvaluatedPackage(self.path / PACKAGE, self.geometry, artifact, threads)

    def ort(self, threads: int | None = None, provider: str = CPU) -> OrtRuntime:
        """An ONNX model, loaded with the manifest's session options; see `OrtRuntime`.

        Raises:
            BundleError: the runtime refuses it, or its input or outputs are not those of the manifest.
        """
        artifact, path = self.manifest.artifact(MODEL), self.file(MODEL)
        runtime = OrtRuntime(path, threads, provider, session=self.manifest.session)
        (name, shape), *others = runtime.inputs.items()
        images = input_spec(self.manifest.image_size, artifact.batch, self.manifest.input)
        found = (name, (runtime.batch, *shape[1:]))
        outputs_are_there = set(self.geometry.output_shapes) <= set(runtime.outputs)
        if others or found != (images.name, images.shape) or not outputs_are_there:
            raise BundleError(f"{path} is not the network of the manifest: its inputs or outputs differ; export again")
        return runtime


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check every file against its hash.

    Raises:
        UsageError: no such folder.
        BundleError: a file is missing, truncated or altered, or points outside the folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"no bundle at {folder}: give the folder that an export wrote")
    bundle = Bundle(folder, read_manifest(folder))
    for artifact in bundle.manifest.artifacts:
        _check_file(folder, artifact)
    if bundle.manifest.target == COREML:
        _refuse_strangers(bundle)
    else:
        bundle.file(MODEL)  # there has to be one
        for artifact in bundle.models:
            refuse_external_data(folder / artifact.path)
    return bundle


def _refuse_strangers(bundle: Bundle) -> None:
    """A package is read as a whole: nothing may lie in it that the manifest does not list."""
    listed = {bundle.path / artifact.path for artifact in bundle.manifest.artifacts}
    for path in sorted((bundle.path / PACKAGE).rglob("*")):
        if path not in listed and not path.is_dir():
            raise BundleError(f"{path} is not in the manifest: remove it, or export again")


def is_unverified(bundle: Bundle) -> bool:
    """Whether the bundle was left by an export that lost parity."""
    return bundle.path.name.endswith(UNVERIFIED) or bundle.manifest.parity.get("ok") is not True


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path, role: str, inside: str | None = None, **model: object) -> Artifact:
    """The manifest's entry for a file that has been written, `inside` being its path in the bundle if not its name."""
    return Artifact(role, inside or path.name, sha256_of(path), path.stat().st_size, **model)  # type: ignore[arg-type]


def _check_file(folder: Path, artifact: Artifact) -> None:
    path = folder / artifact.path
    # No part of the path may lead out of the folder.
    if not path.is_file() or path.resolve() != folder.resolve() / artifact.path:
        raise BundleError(f"{folder} lacks {artifact.path}: copy the whole folder, or export again")
    try:
        size, digest = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if size != artifact.bytes:
        raise BundleError(
            f"{path} has {size} bytes, the manifest says {artifact.bytes}: copy it again, or export again"
        )
    if digest != artifact.sha256:
        raise BundleError(
            f"{path} was altered: its SHA-256 is {digest[:12]}…, the manifest says {artifact.sha256[:12]}…;"
            " copy it again, or export again"
        )
