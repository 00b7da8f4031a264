"""`manifest.json`: what a bundle holds and what is known of it.

It has no timestamps and no paths of the machine that wrote it: the same export gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from debiexport.cards import Card, card_from_dict, resize_box
from debiexport.errors import BundleError, CardError, UsageError
from debiexport.geometry import check_image_size
from debiexport.lowerings import Lowering
from debiexport.runtimes.session import SessionOptions
from debiexport.signature import BYTES, COREML_INPUTS, INPUTS, NORMALIZED, TensorSpec, check_input

FORMAT, FORMAT_VERSION = "debiexport-bundle", 1
MANIFEST = "manifest.json"
ONNX, COREML, TENSORRT = "onnx", "coreml", "tensorrt"
TARGETS = (ONNX, COREML, TENSORRT)
MAX_MANIFEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Artifact:
    """One file of a bundle.

    Attributes:
        role: "model" or "golden"; the other files of a Core ML package are "package" and "weights", those of a
            TensorRT bundle "engine" and "timing_cache".
        path: of the file inside the bundle's folder, its parts separated by "/".
        sha256: of the file.
        bytes: its size.
        batch: the batch a model takes; None for any. None for other roles too.
        precision: of a model's arithmetic, "" for other roles.
        opset: of an ONNX model, None for others.
        function: of a Core ML package that has several, None for others.
        engine: what a TensorRT engine is bound to and what it holds, as `EngineRecord.to_dict` writes it; None for
            others.
        inputs, outputs: of a model.
    """

    role: str
    path: str
    sha256: str
    bytes: int
    batch: int | None = None
    precision: str = ""
    opset: int | None = None
    function: str | None = None
    engine: dict[str, Any] | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"role": self.role, "path": self.path, "sha256": self.sha256, "bytes": self.bytes}
        if self.role == "model":
            out |= {
                "batch": "dynamic" if self.batch is None else self.batch,
                "precision": self.precision,
                **({} if self.opset is None else {"opset": self.opset}),
                **({} if self.function is None else {"function": self.function}),
                "inputs": [t.to_dict() for t in self.inputs],
                "outputs": [t.to_dict() for t in self.outputs],
            }
        if self.engine is not None:
            out |= {"precision": self.precision, "engine": self.engine}
        return out


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        target: "onnx", "coreml" or "tensorrt".
        card: with the options of the export applied.
        checkpoint: description of the weights, as "debi_tiny.pth" or "random, seed 0".
        checkpoint_sha256: of the checkpoint's file, None for random weights.
        image_size: (height, width).
        artifacts: every file of the bundle but the manifest.
        lowering: implementation of each slot.
        versions: of the packages that made it.
        labels: one per class, or None.
        parity: the report of the export, as `ParityReport.to_dict` writes it.
        input: form of the model's images, see `signature.INPUTS`.
        session: options that the model is to be run with, and was proven with; see `runtimes.session`.
        placement: what is expected of the Neural Engine, as `PlacementReport.to_dict` writes it; None elsewhere.
    """

    target: str
    card: Card
    checkpoint: str
    checkpoint_sha256: str | None
    image_size: tuple[int, int]
    artifacts: tuple[Artifact, ...]
    lowering: Lowering
    versions: dict[str, str]
    labels: tuple[str, ...] | None
    parity: dict[str, Any]
    input: str = NORMALIZED
    session: SessionOptions = field(default_factory=SessionOptions)
    placement: dict[str, Any] | None = None

    def artifact(self, role: str) -> Artifact:
        """The first artifact of a role.

        Raises:
            BundleError: there is none.
        """
        for artifact in self.artifacts:
            if artifact.role == role:
                return artifact
        raise BundleError(f"the manifest lists no {role}: export again")

    def preprocessing(self) -> dict[str, Any]:
        """What this bundle's images need: the card's rule at the bundle's size.

        `resize` is the box (height, width) that an image is scaled to just cover, `crop` the centre that
        is then cut out; `mean` and `std` are of RGB in [0, 1], and done inside the model where it takes bytes.
        """
        rule = self.card.preprocessing
        return {
            "resize": list(resize_box(rule, self.image_size)),
            "crop": list(self.image_size),
            "interpolation": rule.interpolation,
            "channels": "RGB",
            "range": [0, 255] if self.input in BYTES else [0, 1],
            "mean": list(rule.mean),
            "std": list(rule.std),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "target": self.target,
            "card": self.card.to_dict(),
            "checkpoint": {"description": self.checkpoint, "sha256": self.checkpoint_sha256},
            "image_size": list(self.image_size),
            "input": self.input,
            "artifacts": [artifact.to_dict() for artifact in self.artifacts],
            "lowering": self.lowering.to_dict(),
            **({"session_options": self.session.to_dict()} if self.target == ONNX else {}),
            "preprocessing": self.preprocessing(),
            "labels": None if self.labels is None else list(self.labels),
            "versions": dict(sorted(self.versions.items())),
            "parity": self.parity,
            **({} if self.placement is None else {"placement": self.placement}),
        }

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into a folder."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest.

    Raises:
        BundleError: it is missing, no manifest, or of a format this version does not know.
    """
    path = folder / MANIFEST
    try:
        if not path.is_file():  # neither a folder nor a pipe, which could be read forever
            raise BundleError(f"{folder} has no {MANIFEST}: it is not a bundle, or it is incomplete")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has {path.stat().st_size} bytes: it is no manifest of debiexport")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read ({error}): export again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{path} is not a manifest of debiexport: export again")
    if data.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {data.get('format_version')!r}, this debiexport reads {FORMAT_VERSION}:"
            " use the version that wrote it, or export again"
        )
    try:
        return _manifest(data, str(path))
    except CardError as error:
        raise BundleError(f"{error}; export again") from error
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise BundleError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}): export again") from error


def _manifest(data: Mapping[str, Any], where: str) -> Manifest:
    card = card_from_dict(data["card"], f"{where}: card")
    checkpoint = _typed(data["checkpoint"], dict)
    sha256, labels = checkpoint["sha256"], data["labels"]
    height, width = (_typed(side, int) for side in _typed(data["image_size"], list))
    if labels is not None and len(_typed(labels, list)) != card.num_classes:
        raise ValueError(f"{len(labels)} labels for {card.num_classes or 'no'} classes")
    target = _typed(data["target"], str)
    if target not in TARGETS:
        raise ValueError(f"target {target!r}")
    return Manifest(
        target=target,
        card=card,
        checkpoint=_typed(checkpoint["description"], str),
        checkpoint_sha256=None if sha256 is None else _typed(sha256, str),
        image_size=check_image_size((height, width)),
        artifacts=tuple(_artifact(_typed(entry, dict), where) for entry in _typed(data["artifacts"], list)),
        lowering=Lowering(**{key: _typed(value, str) for key, value in _typed(data["lowering"], dict).items()}),
        versions={key: _typed(value, str) for key, value in _typed(data["versions"], dict).items()},
        labels=None if labels is None else tuple(_typed(label, str) for label in labels),
        parity=_typed(data["parity"], dict),
        input=check_input(_typed(data["input"], str), COREML_INPUTS if target == COREML else INPUTS),
        session=_session(data.get("session_options", {}), where),
        placement=None if data.get("placement") is None else _typed(data["placement"], dict),
    )


def _session(data: Any, where: str) -> SessionOptions:
    """The session options; bundles of before there were any have ONNX Runtime's defaults."""
    try:
        return SessionOptions.from_dict(data)
    except BundleError as error:
        raise BundleError(f"{where}: {error}; export again") from error


def _typed(value: Any, kind: type) -> Any:
    """The value, if it is of that type; JSON's true and false are no numbers."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r:.80} where {kind.__name__} is expected")
    return value


def _artifact(entry: Mapping[str, Any], where: str) -> Artifact:
    path = _typed(entry["path"], str)
    parts = path.split("/")
    if any(p in ("", ".", "..") for p in parts) or path == MANIFEST or set(path) & set("\\:") or not path.isprintable():
        raise BundleError(f"{where} lists the artifact {path!r:.80}: only files inside the bundle are read")
    batch, opset, function = entry.get("batch", "dynamic"), entry.get("opset"), entry.get("function")
    engine = entry.get("engine")
    return Artifact(
        role=_typed(entry["role"], str),
        path=path,
        sha256=_typed(entry["sha256"], str),
        bytes=_typed(entry["bytes"], int),
        batch=None if batch == "dynamic" else _typed(batch, int),
        precision=_typed(entry.get("precision", ""), str),
        opset=None if opset is None else _typed(opset, int),
        function=None if function is None else _typed(function, str),
        engine=None if engine is None else _typed(engine, dict),
        inputs=tuple(_tensor(_typed(t, dict)) for t in _typed(entry.get("inputs", []), list)),
        outputs=tuple(_tensor(_typed(t, dict)) for t in _typed(entry.get("outputs", []), list)),
    )


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(None if side is None else _typed(side, int) for side in _typed(entry["shape"], list))
    return TensorSpec(_typed(entry["name"], str), _typed(entry["dtype"], str), shape)
