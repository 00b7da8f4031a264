"""Things that can be timed, loaded from a description that another process can load too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from debiexport.bundle import GOLDEN, MODEL, Bundle
from debiexport.cards import Preprocessing
from debiexport.environment import package_versions
from debiexport.errors import BundleError
from debiexport.runtimes.base import Array
from debiexport.runtimes.ort import CPU, OrtRuntime
from debiexport.runtimes.session import SessionOptions

BUNDLE, PLAIN, EAGER, OPENVINO = "bundle", "plain", "eager", "openvino"
OPPONENTS = (PLAIN, EAGER, OPENVINO)
POOL_BYTES = 256_000_000


@dataclass(frozen=True)
class Spec:
    """What to load and how.

    Attributes:
        name: for people, unique in a measurement.
        kind: `BUNDLE`, or one of `OPPONENTS`.
        model: an ONNX file; for `EAGER` the bundle whose card and weights are taken.
        checkpoint: for `EAGER`, the file that the weights are in; None for shipped or random ones.
        batch: images per run.
        threads: of the runtime; None lets it choose.
        provider: of ONNX Runtime.
        session: options of ONNX Runtime's session, as `SessionOptions.to_dict` writes them; a bundle has its own,
            opponents have the runtime's defaults.
    """

    name: str
    kind: str
    model: str
    checkpoint: str | None
    batch: int
    threads: int | None
    provider: str = CPU
    session: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Loaded:
    """A subject in memory.

    Attributes:
        run: images in, results out; they are there when it returns.
        runtime: name and version of what runs it.
        options: of the runtime; the others are its defaults.
    """

    run: Callable[[Array], object]
    runtime: str
    options: dict[str, object]


@dataclass(frozen=True)
class Subject:
    """A loaded subject and what to run it on; see `runner.Timed`."""

    name: str
    run: Callable[[Array], object]
    pool: Sequence[Array]


def load(spec: Spec) -> Loaded:
    """Load a subject; this is what its load time measures."""
    if spec.kind == EAGER:
        return _load_eager(spec)
    if spec.kind == OPENVINO:
        from debiexport.runtimes.openvino import OpenVinoRuntime

        served = OpenVinoRuntime(Path(spec.model), spec.threads)
        return Loaded(lambda images: served.run({"images": images}), _versioned("openvino"), served.options)
    runtime = open_session(spec)
    name = _versioned("onnxruntime", "onnxruntime-gpu")
    return Loaded(lambda images: runtime.run({"images": images}), name, runtime.options)


def open_session(spec: Spec, *, profile_prefix: Path | None = None) -> OrtRuntime:
    """A subject that ONNX Runtime runs, with its options; see `OrtRuntime`."""
    session = SessionOptions.from_dict(spec.session)
    return OrtRuntime(Path(spec.model), spec.threads, spec.provider, session=session, profile_prefix=profile_prefix)


def _load_eager(spec: Spec) -> Loaded:
    import torch

    from debiexport.bench.opponents import reference_of
    from debiexport.bundle import open_bundle

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    network = reference_of(open_bundle(spec.model), spec.checkpoint)

    def run(images: Array) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(images))

    options: dict[str, object] = {"device": "cpu", "num_threads": torch.get_num_threads(), "mode": "inference_mode"}
    return Loaded(run, _versioned("torch"), options)


def _versioned(*packages: str) -> str:
    """Name and version of the first of the packages that is installed."""
    name, version = next(iter(package_versions(packages).items()), (packages[0], "unknown"))
    return f"{name} {version}"


def pool_of(bundle: Bundle, batch: int) -> list[Array]:
    """Different batches of the bundle's golden images, in the form that its model takes.

    Raises:
        BundleError: the golden file is damaged.
    """
    path = bundle.file(GOLDEN)
    try:
        with np.load(path, allow_pickle=False) as data:
            images: Array = data["images"]
    except Exception as error:  # numpy, zipfile and zlib each raise their own
        raise BundleError(f"{path} is damaged ({error}): export again") from error
    return batches(images, batch)


def batches(images: Array, batch: int, limit: int = POOL_BYTES) -> list[Array]:
    """As many different batches (N, ...) as there are images (P, ...), or as many as the limit has room for."""
    each = max(batch * images[0].nbytes, 1)
    count = max(min(len(images), limit // each), 1)
    return [images[[i % len(images) for i in range(k, k + batch)]] for k in range(count)]


def normalised(pool: Sequence[Array], preprocessing: Preprocessing) -> list[Array]:
    """The pool as float32 (N, 3, H, W), which is what opponents take, from whatever the bundle takes."""
    if pool[0].dtype != np.uint8:
        return list(pool)
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    return [
        np.ascontiguousarray((images.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2).copy()
        for images in pool
    ]


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, numbered where one occurs again."""
    taken: set[str] = set()
    unique = []
    for name in names:
        candidates = itertools.chain([name], (f"{name} ({i})" for i in itertools.count(2)))
        free = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(free)
        unique.append(free)
    return unique


def batch_of(bundle: Bundle) -> int | None:
    """The only batch that a bundle takes, or None."""
    return bundle.manifest.artifact(MODEL).batch
