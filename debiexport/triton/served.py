"""What a server offers of a bundle: one model of a name, a signature, a range of batches and a history.

Both servers begin here, Triton's repository and the embedded one, so that a client meets the same model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from debiexport.bundle import Bundle, is_unverified, open_bundle
from debiexport.errors import BundleError, UsageError
from debiexport.manifest import COREML, TENSORRT, Artifact
from debiexport.names import LOGITS
from debiexport.runtimes.session import SessionOptions
from debiexport.signature import TensorSpec
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.record import EngineRecord
from debiexport.targets.tensorrt.version import RTX

ONNX_PLATFORM, PLAN_PLATFORM = "onnxruntime_onnx", "tensorrt_plan"
DEFAULT_MAX_BATCH, LARGEST_BATCH = 8, 1024
PREPROCESSING, INPUT, IMAGE_SIZE, NETWORK, LABELS = "preprocessing", "input", "image_size", "network", "labels"
MODEL_SHA256, BATCHES, TENSORRT_VERSION = "model_sha256", "batches", "tensorrt"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class ServedModel:
    """A model as clients meet it.

    Attributes:
        name: of letters, digits, "_", "." and "-".
        platform: "onnxruntime_onnx" or "tensorrt_plan".
        file: the ONNX model or the plan, checked against its hash.
        inputs, outputs: with the batch as their first side, None where several batches are taken.
        batch: the only batch it takes, or None.
        max_batch: the largest batch a server may put together; 0 where the batch is fixed.
        labels: of the classes, or None.
        interface: how it is to be called: the same for every version of a model.
        provenance: where it comes from and what it is bound to: of this version alone.
        tuned_batch: the batch a plan is tuned for, None for ONNX.
        largest_batch: that the file itself can take, None for any.
        session: options that ONNX Runtime is to run it with.
        notes: what a user should know who runs it on a CPU.
    """

    name: str
    platform: str
    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | None
    max_batch: int
    labels: tuple[str, ...] | None
    interface: dict[str, str]
    provenance: dict[str, str]
    tuned_batch: int | None = None
    largest_batch: int | None = None
    session: SessionOptions = field(default_factory=SessionOptions)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, str]:
        """Interface and provenance together."""
        return {**self.interface, **self.provenance}

    @property
    def is_plan(self) -> bool:
        return self.platform == PLAN_PLATFORM

    @property
    def filename(self) -> str:
        """What the file is called in a model repository."""
        return "model.plan" if self.is_plan else "model.onnx"


def check_name(name: str) -> str:
    """A name that a model can have in a URL and as a folder.

    Raises:
        UsageError: it has other characters than letters, digits, "_", "." and "-", begins with one of the last two,
            or is longer than 128.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the model's name is {name!r:.160}: give up to 128 letters, digits, _ . and -, as in debi_nano=BUNDLE"
        )
    return name


def named_bundle(text: str) -> tuple[str | None, Path]:
    """Read `BUNDLE` or `NAME=BUNDLE`; a folder that has such a name itself is taken for the folder.

    What comes before the "=" may be part of a path; it is taken for a name where a folder comes after it.

    Raises:
        UsageError: see `check_name`, or there is no bundle behind the name.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).is_dir() or ("/" in name and not (path and Path(path).is_dir())):
        return None, Path(text)
    if not path:
        raise UsageError(f"{text!r} names no bundle: give NAME=BUNDLE, as in debi_nano=artifacts/debi_nano")
    return check_name(name), Path(path)


def served_models(
    bundle: Bundle | str | Path,
    name: str | None = None,
    *,
    max_batch: int | None = None,
    onnx: bool = False,
    allow_unverified: bool = False,
) -> tuple[ServedModel, ...]:
    """What can be served of a bundle: its model, or each of several batches under a name of its own.

    Args:
        bundle: opened, so with its hashes checked, or the folder of one.
        name: of the model; None for the card's. Where a bundle has several, their batches are appended.
        max_batch: the largest batch a server may put together; None for 8, or what a plan allows. A fixed batch
            stays what it is.
        onnx: serve the ONNX models of a TensorRT bundle also where it has engines.
        allow_unverified: serve a bundle that lost parity too.

    Raises:
        UsageError: a name or a batch that cannot be used.
        BundleError: the bundle lost parity, or nothing in it can be served by ONNX Runtime or TensorRT.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if opened.manifest.target == COREML:
        raise BundleError(f"{opened.path} is of Core ML, which no server runs: export it with debiexport onnx")
    if is_unverified(opened) and not allow_unverified:
        raise BundleError(f"{opened.path} lost parity when it was exported, so it is not served: export again")
    if max_batch is not None and not 1 <= max_batch <= LARGEST_BATCH:
        raise UsageError(f"--max-batch is {max_batch}: give 1 to {LARGEST_BATCH}")
    chosen = check_name(opened.manifest.card.name if name is None else name)
    records = _records(opened)
    served = []
    for model in opened.models:
        engine, record = records.get(model.path, (None, None))
        suffix = f"_b{record.profile if record else _batches(model)}".replace(":", "-")
        full_name = check_name(chosen + suffix) if len(opened.models) > 1 else chosen
        if engine is None or record is None or onnx:
            served.append(_served_onnx(opened, model, full_name, max_batch))
        else:
            served.append(_served_plan(opened, model, engine, record, full_name, max_batch))
    return tuple(served)


def _records(bundle: Bundle) -> dict[str, tuple[Artifact, EngineRecord]]:
    """Engines with their records, by the path of the model they were made of."""
    pairs = [(engine, EngineRecord.from_dict(engine.engine)) for engine in bundle.engines]
    return {record.model: (engine, record) for engine, record in pairs}


def _served_onnx(bundle: Bundle, model: Artifact, name: str, max_batch: int | None) -> ServedModel:
    file = bundle.path / model.path
    typed = bundle.manifest.target == TENSORRT and model.precision != "fp32"
    note = (
        f"{file} is typed {model.precision}, which ONNX Runtime on a CPU computes in float32: nothing was proven of its"
        " speed there"
    )
    return ServedModel(
        name,
        ONNX_PLATFORM,
        file,
        model.inputs,
        model.outputs,
        model.batch,
        0 if model.batch is not None else max_batch or DEFAULT_MAX_BATCH,
        _labels(bundle),
        _interface(bundle),
        {**_provenance(bundle, model, model.precision), BATCHES: _batches(model)},
        largest_batch=model.batch,
        session=bundle.manifest.session,
        notes=(note,) if typed else (),
    )


def _served_plan(
    bundle: Bundle, model: Artifact, engine: Artifact, record: EngineRecord, name: str, max_batch: int | None
) -> ServedModel:
    file, bound, profile = bundle.path / engine.path, record.fingerprint, record.profile
    if bound.flavour == RTX:
        raise BundleError(
            f"{file} is an engine of TensorRT for RTX, which Triton does not run: export with --engine tensorrt on the"
            " GPU that is to serve it, or serve the ONNX model with --onnx"
        )
    _check_profile(file, profile, max_batch)
    return ServedModel(
        name,
        PLAN_PLATFORM,
        file,
        model.inputs,
        model.outputs,
        profile.batch,
        (max_batch or profile.max) if profile.is_range else 0,
        _labels(bundle),
        _interface(bundle),
        {
            **_provenance(bundle, engine, engine.precision),
            BATCHES: str(profile),
            TENSORRT_VERSION: bound.version,
            "compute_capability": ",".join(bound.compute_capabilities),
            "hardware_compatibility": bound.hardware_compatibility,
            **({} if bound.gpu is None else {"gpu": bound.gpu}),
        },
        tuned_batch=profile.opt,
        largest_batch=profile.max,
    )


def _check_profile(file: Path, profile: Profile, max_batch: int | None) -> None:
    """A server puts any batch together, down to a single image."""
    if profile.is_range and profile.min > 1:
        raise BundleError(
            f"{file} takes batches of {profile.min} to {profile.max}, but a server also has single images to run:"
            f" export it with --batch 1:{profile.opt}:{profile.max}"
        )
    if profile.is_range and max_batch is not None and max_batch > profile.max:
        raise UsageError(
            f"--max-batch is {max_batch}, and {file} takes batches of at most {profile.max}: give at most that, or"
            f" export it with --batch 1:{profile.opt}:{max_batch}"
        )


def _batches(model: Artifact) -> str:
    return "dynamic" if model.batch is None else str(model.batch)


def _labels(bundle: Bundle) -> tuple[str, ...] | None:
    """The labels, where one output has a number for each class."""
    return bundle.manifest.labels if LOGITS in bundle.geometry.output_shapes else None


def _interface(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    height, width = manifest.image_size
    labels = _labels(bundle)
    return {
        NETWORK: manifest.card.name,
        IMAGE_SIZE: f"{height}x{width}",
        INPUT: manifest.input,
        PREPROCESSING: json.dumps(manifest.preprocessing(), sort_keys=True),
        **({} if labels is None else {LABELS: json.dumps(labels)}),
    }


def _provenance(bundle: Bundle, file: Artifact, precision: str) -> dict[str, str]:
    manifest = bundle.manifest
    return {
        "source": manifest.checkpoint,
        **({} if manifest.checkpoint_sha256 is None else {"source_sha256": manifest.checkpoint_sha256}),
        MODEL_SHA256: file.sha256,
        "precision": precision,
        "debiexport": manifest.versions.get("debiexport", "unknown"),
        "verified": "false" if is_unverified(bundle) else "true",
        "lowering": json.dumps(manifest.lowering.to_dict(), sort_keys=True),
    }
