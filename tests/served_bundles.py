"""Bundles of a network of two operations, for tests of what serves them; they are made in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from debiexport.bundle import ENGINE, MODEL, describe_file
from debiexport.cards import Card
from debiexport.geometry import Geometry
from debiexport.lowerings import LOWERINGS
from debiexport.manifest import ONNX, TENSORRT, Artifact, Manifest
from debiexport.runtimes.session import RECOMMENDED, SessionOptions
from debiexport.signature import NORMALIZED, UINT8, input_spec, output_specs
from debiexport.targets.tensorrt.fingerprint import Fingerprint
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.record import EngineRecord

SIZE = (64, 64)
LABELS = ("ant", "bee", "cat", "dog", "emu", "fox")
FULL = Fingerprint("tensorrt", "11.4.0.106", "NVIDIA L4", ("8.9",), "13.0")
FOR_RTX = Fingerprint("rtx", "1.7.1.116", None, ("8.9",))


def small_model(batch: int | None, form: str = NORMALIZED, seed: int = 0) -> onnx.ModelProto:
    """Images of 64 x 64 -> logits (N, 6): the mean of each channel, times a matrix."""
    shape = list(input_spec(SIZE, batch, form).shape)
    sides = ["N" if side is None else side for side in shape]
    make, value, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto
    weights = onnx.numpy_helper.from_array(np.random.default_rng(seed).normal(size=(3, 6)).astype(np.float32), "w")
    axes = onnx.numpy_helper.from_array(np.array([1, 2] if form == UINT8 else [2, 3]), "axes")
    graph = onnx.helper.make_graph(
        [
            make("Cast", ["images"], ["x"], to=kind.FLOAT),
            make("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
            make("MatMul", ["mean", "w"], ["logits"]),
        ],
        "small",
        [value("images", kind.UINT8 if form == UINT8 else kind.FLOAT, sides)],
        [value("logits", kind.FLOAT, [sides[0], 6])],
        [weights, axes],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def make_bundle(
    folder: Path,
    card: Card,
    batch: int | None = None,
    *,
    input: str = NORMALIZED,
    seed: int = 0,
    labels: tuple[str, ...] | None = LABELS,
    verified: bool = True,
    session: SessionOptions = RECOMMENDED,
) -> Path:
    """An ONNX bundle; models of different seeds differ in their weights alone."""
    folder.mkdir()
    model = _write_model(folder, "model.onnx", card, batch, input, seed, "float32")
    manifest = _manifest(card, (model,), labels, verified, ONNX)
    replace(manifest, input=input, session=session).write(folder)
    return folder


def make_plan_bundle(
    folder: Path,
    card: Card,
    *profiles: Profile,
    fingerprint: Fingerprint | None = FULL,
    precision: str = "fp16",
) -> Path:
    """A TensorRT bundle with a model and an engine for each profile, the engine's content being anything."""
    folder.mkdir()
    artifacts: list[Artifact] = []
    for profile in profiles or (Profile(1, 2, 4),):
        name = "model" if len(profiles) < 2 else f"model-b{str(profile).replace(':', '-')}"
        artifacts.append(_write_model(folder, f"{name}.onnx", card, profile.batch, NORMALIZED, 0, precision))
        if fingerprint is not None:
            plan = folder / f"{name}.plan"
            plan.write_bytes(f"a plan for {profile}".encode())
            record = EngineRecord(f"{name}.onnx", fingerprint, profile, {})
            artifacts.append(describe_file(plan, ENGINE, precision=precision, engine=record.to_dict()))
    _manifest(card, tuple(artifacts), LABELS, True, TENSORRT).write(folder)
    return folder


def _write_model(
    folder: Path, name: str, card: Card, batch: int | None, form: str, seed: int, precision: str
) -> Artifact:
    onnx.save(small_model(batch, form, seed), str(folder / name))
    return describe_file(
        folder / name,
        MODEL,
        batch=batch,
        precision=precision,
        opset=20,
        inputs=(input_spec(SIZE, batch, form),),
        outputs=output_specs(Geometry.of(card, SIZE), batch),
    )


def _manifest(
    card: Card, artifacts: tuple[Artifact, ...], labels: tuple[str, ...] | None, verified: bool, target: str
) -> Manifest:
    parity: dict[str, Any] = {"ok": verified}
    return Manifest(
        target=target,
        card=card,
        checkpoint="weights.pth",
        checkpoint_sha256="ab" * 32,
        image_size=SIZE,
        artifacts=artifacts,
        lowering=LOWERINGS["cpu"],
        versions={"debiexport": "0.1.0"},
        labels=labels,
        parity=parity,
    )
