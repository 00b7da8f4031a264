"""The bundles that a server has loaded, by name and version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from debiexport.bundle import Bundle, is_unverified, open_bundle
from debiexport.errors import BundleError, UsageError
from debiexport.manifest import COREML, ONNX
from debiexport.prediction import weight_notes
from debiexport.progress import Progress, silent
from debiexport.runtimes.base import Arrays
from debiexport.serve.batcher import Batcher
from debiexport.serve.options import MAX_WAIT_US, ServeOptions
from debiexport.serve.refusals import BadRequest, NotFound, shown
from debiexport.serve.requests import Signature
from debiexport.serve.statistics import Statistics
from debiexport.triton.dtypes import protocol_type
from debiexport.triton.served import ServedModel, named_bundle, served_models

_VERSION = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True)
class LoadedModel:
    """One version of a model, ready to run.

    Attributes:
        served: its name, tensors and history, the same as in a repository of Triton.
        version: 1 and up.
        signature: what requests to it have to look like.
        batcher: where they queue.
        statistics: what has happened to them.
    """

    served: ServedModel
    version: int
    signature: Signature
    batcher: Batcher
    statistics: Statistics

    @property
    def name(self) -> str:
        return self.served.name


class Models:
    """Every version of every model.

    Args:
        loaded: by name, each with its versions.
    """

    def __init__(self, loaded: Mapping[str, Mapping[int, LoadedModel]]) -> None:
        self._loaded = loaded

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter([model for versions in self._loaded.values() for model in versions.values()])

    def versions(self, name: str) -> list[int]:
        """The versions of a model, in order.

        Raises:
            NotFound: there is no such model.
        """
        if name not in self._loaded:
            have = ", ".join(f"'{known}'" for known in self._loaded)
            raise NotFound(f"Request for unknown model: {shown(name)} is not found, expected {have}")
        return sorted(self._loaded[name])

    def find(self, name: str, version: str = "") -> LoadedModel:
        """A version of a model; the newest where none is named.

        Raises:
            NotFound: there is no such model or version.
            BadRequest: the version is no number.
        """
        versions = self.versions(name)
        if not version:
            return self._loaded[name][versions[-1]]
        if not _VERSION.fullmatch(version):
            raise BadRequest(f"the version of model '{name}' is {shown(version)}, expected a whole number above 0")
        if int(version) not in versions:
            have = ", ".join(map(str, versions))
            raise NotFound(f"Request for unknown model: '{name}' version {int(version)} is not found, expected {have}")
        return self._loaded[name][int(version)]

    def close(self) -> None:
        """Run what is queued and end the threads."""
        for model in self:
            model.batcher.close()


def load_models(bundles: Sequence[str | Path], options: ServeOptions, progress: Progress = silent) -> Models:
    """Open and check bundles, load their models and run each once.

    Args:
        bundles: folders, or NAME=BUNDLE; several of the same name are its versions 1, 2 and so on.
        options: batching, threads, and whether unverified bundles are served.
        progress: told of each.

    Raises:
        UsageError: no bundles, a name that cannot be used, or a batch that no model takes.
        BundleError: a file was altered, a model lost parity, or is not one for ONNX Runtime.
    """
    if not bundles:
        raise UsageError("no bundles: give at least one folder that an export wrote")
    opened = []
    for text in bundles:
        name, path = named_bundle(str(text))
        progress(f"checking the files of {path}")
        bundle = open_bundle(path)
        _check_target(bundle)
        _check_verified(bundle, options.allow_unverified, progress)
        for note in weight_notes(bundle):
            progress(f"note: {note}")
        opened.append((name, bundle))
    if options.max_batch is not None and not any(bundle.models[0].batch is None for _, bundle in opened):
        raise UsageError(
            f"--max-batch is {options.max_batch}, but every bundle has a fixed batch: leave it out, or export with"
            " --batch dynamic"
        )
    loaded: dict[str, dict[int, LoadedModel]] = {}
    try:
        for name, bundle in opened:
            served = served_models(bundle, name, max_batch=options.max_batch, allow_unverified=options.allow_unverified)
            for model in served:
                versions = loaded.setdefault(model.name, {})
                versions[len(versions) + 1] = _load(bundle, model, len(versions) + 1, options)
                progress(f"loaded {model.name}, version {len(versions)}, of {bundle.path}")
    except BaseException:
        Models(loaded).close()
        raise
    return Models(loaded)


def _check_target(bundle: Bundle) -> None:
    target = bundle.manifest.target
    if target == ONNX:
        return
    if target == COREML:
        raise BundleError(f"{bundle.path} is of Core ML, which no server runs: export it with debiexport onnx")
    raise BundleError(
        f"{bundle.path} is of TensorRT: served here it would run on the CPU, in float32 whatever its precision; export"
        " it with debiexport onnx, or make a repository for Triton with debiexport triton"
    )


def _check_verified(bundle: Bundle, allowed: bool, progress: Progress) -> None:
    if not is_unverified(bundle):
        return
    if not allowed:
        raise BundleError(
            f"{bundle.path} lost parity when it was exported, so it is not served: export again, or give"
            " --allow-unverified if wrong answers are fine"
        )
    progress(f"WARNING {bundle.path} lost parity when it was exported: do not rely on its answers")


def _load(bundle: Bundle, served: ServedModel, version: int, options: ServeOptions) -> LoadedModel:
    for tensor in (*served.inputs, *served.outputs):
        protocol_type(tensor.dtype)
    runtime = _without_spinning(bundle).ort(options.threads)
    max_images = served.batch or served.max_batch
    runtime.run(_black(served))  # the first run takes longer, and shows that there can be any
    statistics = Statistics()
    return LoadedModel(
        served,
        version,
        Signature(served.name, served.inputs, served.outputs, max_images, fixed=served.batch is not None),
        Batcher(
            served.name,
            runtime.run,
            max_images=max_images,
            queue_delay_us=options.queue_delay_us,
            max_queue=options.max_queue,
            max_wait_us=MAX_WAIT_US,
            statistics=statistics,
        ),
        statistics,
    )


def _without_spinning(bundle: Bundle) -> Bundle:
    """The bundle with threads of the runtime that let go of their cores between runs.

    There the server reads and answers requests. It changes no number that the model computes.
    """
    session = bundle.manifest.session
    entries = {"session.force_spinning_stop": "1", **session.entries}
    return replace(bundle, manifest=replace(bundle.manifest, session=replace(session, entries=entries)))


def _black(served: ServedModel) -> Arrays:
    """The smallest batch of inputs, all zero."""
    return {
        spec.name: np.zeros([spec.shape[0] or 1, *(side or 1 for side in spec.shape[1:])], spec.dtype)
        for spec in served.inputs
    }
