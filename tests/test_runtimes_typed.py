"""A typed model run by evaluating it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from debiexport.bundle import MODEL, describe_file
from debiexport.cards import Card
from debiexport.errors import BundleError, MissingDependencyError, UsageError
from debiexport.geometry import Geometry
from debiexport.manifest import Artifact
from debiexport.names import LOGITS
from debiexport.runtimes import typed as module
from debiexport.runtimes.base import Runtime
from debiexport.runtimes.typed import EvaluatedModel
from debiexport.signature import IMAGES, input_spec, output_specs

OneLine = Callable[[BaseException], str]
FP16, FP32 = TensorProto.FLOAT16, TensorProto.FLOAT
SIZE = (64, 64)


@pytest.fixture
def geometry(tiny_bi_card: Card) -> Geometry:
    return Geometry.of(tiny_bi_card, SIZE)


@pytest.fixture
def save(tmp_path: Path, geometry: Geometry) -> Callable[..., tuple[Path, Artifact]]:
    """A model of the network's inputs and outputs: the means of the colours in float16, times six weights."""

    def write(batch: int | None = 1, weight: float = 2.0, output: str = LOGITS) -> tuple[Path, Artifact]:
        weights = numpy_helper.from_array(np.full((3, 6), weight, np.float16), "w")
        axes = numpy_helper.from_array(np.array([2, 3]), "axes")
        nodes = [
            helper.make_node("Cast", [IMAGES], ["x"], "in/Cast", to=FP16),
            helper.make_node("ReduceMean", ["x", "axes"], ["m"], "pool/ReduceMean", keepdims=0),
            helper.make_node("MatMul", ["m", "w"], ["y"], "head/MatMul"),
            helper.make_node("Cast", ["y"], [output], "out/Cast", to=FP32),
        ]
        given = helper.make_tensor_value_info(IMAGES, FP32, [batch or "N", 3, *SIZE])
        made = helper.make_tensor_value_info(output, FP32, [batch or "N", 6])
        graph = helper.make_graph(nodes, "typed", [given], [made], [weights, axes])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        path = tmp_path / "model.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        inputs, outputs = (input_spec(SIZE, batch, "normalized"),), output_specs(geometry, batch)
        return path, describe_file(path, MODEL, batch=batch, precision="fp16", inputs=inputs, outputs=outputs)

    return write


def images(batch: int, value: float = 1.0) -> dict[str, np.ndarray]:
    return {IMAGES: np.full((batch, 3, *SIZE), value, np.float32)}


@pytest.mark.parametrize(("declared", "given"), [(1, 1), (3, 3), (None, 1), (None, 4)])
def test_it_is_a_runtime(
    save: Callable[..., tuple[Path, Artifact]], geometry: Geometry, declared: int | None, given: int
) -> None:
    path, artifact = save(declared)
    runtime: Runtime = EvaluatedModel(path, geometry, artifact)
    assert runtime.batch == declared
    result = runtime.run(images(given), ["m"])
    assert set(result) == {LOGITS, "m"}
    assert result[LOGITS].dtype == np.float32 and result[LOGITS].shape == (given, 6)
    assert (result[LOGITS] == 6).all() and (result["m"] == 1).all()


def test_types_are_rounded_to(save: Callable[..., tuple[Path, Artifact]], geometry: Geometry) -> None:
    """1 + 2^-12 is 1 in float16, and ONNX Runtime would keep it."""
    path, artifact = save()
    runtime = EvaluatedModel(path, geometry, artifact)
    assert (runtime.run(images(1, 1 + 2**-12))[LOGITS] == 6).all()


def test_where_it_overflows(save: Callable[..., tuple[Path, Artifact]], geometry: Geometry) -> None:
    path, artifact = save(weight=3e4)
    runtime = EvaluatedModel(path, geometry, artifact)
    assert runtime.first_not_finite(images(1)) == ("head/MatMul", "y")
    assert np.isinf(runtime.run(images(1))[LOGITS]).all()
    assert runtime.first_not_finite(images(1, 0.1)) is None


def test_threads(
    save: Callable[..., tuple[Path, Artifact]], geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    path, artifact = save()
    EvaluatedModel(path, geometry, artifact)
    EvaluatedModel(path, geometry, artifact, threads=2)
    assert asked == [2]


def test_another_model_than_the_manifest_says(
    save: Callable[..., tuple[Path, Artifact]], geometry: Geometry, one_line: OneLine
) -> None:
    path, artifact = save(2)
    wrong = [
        replace(artifact, batch=1, inputs=(input_spec(SIZE, 1, "normalized"),)),
        replace(artifact, batch=None, inputs=(input_spec(SIZE, None, "normalized"),)),
        replace(artifact, inputs=(input_spec((64, 96), 2, "normalized"),)),
        replace(artifact, inputs=()),
    ]
    for other in wrong:
        with pytest.raises(BundleError) as caught:
            EvaluatedModel(path, geometry, other)
        assert "is not the network of the manifest" in one_line(caught.value)
    path, artifact = save(output="feature1")
    with pytest.raises(BundleError, match="its inputs or outputs differ; export again"):
        EvaluatedModel(path, geometry, artifact)


def test_what_is_no_model(save: Callable[..., tuple[Path, Artifact]], geometry: Geometry, one_line: OneLine) -> None:
    path, artifact = save()
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(BundleError) as caught:
        EvaluatedModel(path, geometry, artifact)
    assert "model.onnx" in one_line(caught.value)


def test_what_it_is_not_given(save: Callable[..., tuple[Path, Artifact]], geometry: Geometry) -> None:
    path, artifact = save()
    runtime = EvaluatedModel(path, geometry, artifact)
    with pytest.raises(BundleError, match=r"no tensor 'stage9\.block1'"):
        runtime.run(images(1), ["stage9.block1"])
    with pytest.raises(UsageError, match="has shape"):
        runtime.run(images(2))


def test_torch_is_needed(
    save: Callable[..., tuple[Path, Artifact]],
    geometry: Geometry,
    monkeypatch: pytest.MonkeyPatch,
    one_line: OneLine,
) -> None:
    monkeypatch.setattr(module, "missing", lambda packages: list(packages))
    with pytest.raises(MissingDependencyError) as caught:
        EvaluatedModel(*save()[:1], geometry, save()[1])
    assert "pip install 'debiexport[export]'" in one_line(caught.value) and caught.value.exit_code == 5
