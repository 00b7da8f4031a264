"""The compile gate on real networks: TensorRT for RTX builds them, and takes every attention and every plugin for it.

Of the cards that are not among `WHOLE`, one block a stage is built: what they have of their own is in it. Whole
networks are built by `benchmarks/tensorrt_static.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from debiexport.cards import Card, card_names, load_card
from debiexport.checkpoint import random_checkpoint
from debiexport.errors import EngineError
from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.geometry import Geometry
from debiexport.graph.typed import PRECISIONS, typed
from debiexport.loading import build_reference, load_model
from debiexport.lowerings import TENSORRT_LOWERINGS
from debiexport.oracle import Oracle
from debiexport.parity import judge
from debiexport.parity_inputs import parity_images
from debiexport.reference.network import ReferenceNetwork
from debiexport.runtimes.ort import OrtRuntime
from debiexport.signature import IMAGES
from debiexport.static.network import StaticNetwork
from debiexport.targets.onnx import to_onnx
from debiexport.targets.tensorrt import gate
from debiexport.targets.tensorrt.gate import Passed, compile_gate
from debiexport.targets.tensorrt.profile import Profile

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is built for Linux and Windows")

ONE = Profile(1, 1, 1)
WHOLE = ("debi_t", "debi_nano")
SMALL = {card: (256, 384) for card in card_names() if card.endswith(("_det", "_seg"))}
"""Dense backbones at a size whose reference takes seconds."""


def cut(card: Card) -> Card:
    """One block a stage."""
    return replace(card, stages=tuple(replace(stage, blocks=1) for stage in card.stages))


def models(reference: ReferenceNetwork, size: tuple[int, int], lowering: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The typed model in every precision."""
    model = to_onnx(StaticNetwork.of(reference, size, TENSORRT_LOWERINGS[lowering]), batch=1)
    for precision in PRECISIONS:
        yield precision, typed(model, precision)


def passed(model: onnx.ModelProto, folder: Path) -> Passed:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return compile_gate(path, None, ("sm89",), ONE)


def check(found: Passed, geometry: Geometry, lowering: str, precision: str) -> None:
    """What the builder took the graph for."""
    choosing = [a for a in geometry.routed if not a.routes_everywhere]
    broadcasts = [a for a in geometry.attentions.values() if a.kind == "dbra"]
    everywhere = len(geometry.attentions) - len(choosing)
    if lowering == "plugins":
        assert (found.plugins, found.attentions) == (len(choosing) + len(broadcasts), everywhere)
    else:
        assert (found.plugins, found.attentions) == (0, len(choosing) + len(broadcasts) + everywhere)
    layers = found.found.layers
    products = [layer for layer in layers if layer.type in ("CONVOLUTION", "MATRIX_MULTIPLY")]
    assert products
    half = {tensor.dtype for layer in products for tensor in layer.outputs}
    assert half == ({"float32"} if precision == "fp32" else {"float16", "float32"})
    if precision == "fp16":
        convolutions = {t.dtype for layer in layers if layer.type == "CONVOLUTION" for t in layer.outputs}
        assert convolutions == {"float16"}
    chosen = [layer for layer in layers if layer.type == "TOPK"]
    assert len(chosen) == len(choosing)
    assert {layer.inputs[0].dtype for layer in chosen} <= {"float32"}
    softmaxes = {t.dtype for layer in layers if layer.type == "SOFTMAX" for t in layer.outputs}
    assert softmaxes <= {"float32"}
    assert not found.found.grid_samples


@pytest.mark.parametrize("lowering", TENSORRT_LOWERINGS)
def test_one_block_of_a_released_network(lowering: str, tmp_path: Path) -> None:
    card = cut(load_card("debi_t"))
    reference = build_reference(random_checkpoint(card), (224, 224))
    for precision, model in models(reference, (224, 224), lowering):
        check(passed(model, tmp_path), Geometry.of(card, (224, 224)), lowering, precision)


def test_the_sample_network(tmp_path: Path) -> None:
    reference = load_model("debi_nano")
    for precision, model in models(reference, (224, 224), "native"):
        found = passed(model, tmp_path)
        check(found, Geometry.of(reference.card, (224, 224)), "native", precision)
        assert found.found.parse_s + found.found.build_s > 0


def test_an_attention_that_is_not_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax over the wrong axis of scores that go on to a product is no attention to anybody else."""
    monkeypatch.setattr(gate, "attention_products", lambda model: [("nowhere/MatMul", "nowhere/MatMul_2")])
    card = cut(load_card("biformer_t"))
    model = to_onnx(
        StaticNetwork.of(build_reference(random_checkpoint(card), (64, 64)), (64, 64), TENSORRT_LOWERINGS["native"]),
        batch=1,
    )
    with pytest.raises(EngineError, match="did not recognise 2 of 2 products of attentions, such as nowhere/MatMul"):
        passed(model, tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("lowering", TENSORRT_LOWERINGS)
@pytest.mark.parametrize("name", card_names())
def test_every_card(name: str, lowering: str, tmp_path: Path) -> None:
    """Built in both precisions; judged as typed on two images; run by ONNX Runtime."""
    card = load_card(name)
    if name not in WHOLE:
        card = cut(card)
    sides = card.default_image_size
    size = SMALL.get(name) or ((sides, sides) if isinstance(sides, int) else (sides[0], sides[1]))
    reference = load_model(name) if name == "debi_nano" else build_reference(random_checkpoint(card), size)
    geometry, oracle = Geometry.of(card, size), Oracle(reference)
    images = parity_images(card.preprocessing, size)[:2]
    for precision, model in models(reference, size, lowering):
        check(passed(model, tmp_path), geometry, lowering, precision)
        report = judge(OnnxEvaluator(model), oracle, geometry, images, precision).report
        assert report.ok, report.failures
        outputs = OrtRuntime(tmp_path / "model.onnx").run({IMAGES: images[0].input[None]})
        assert all(np.isfinite(array).all() for array in outputs.values())
