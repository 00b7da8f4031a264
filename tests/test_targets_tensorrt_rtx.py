"""Builds with TensorRT for RTX itself; none needs a GPU."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rtx_models as models
from onnx import TensorProto
from rtx_models import F16, F32, needs_rtx

from debiexport.errors import EngineError
from debiexport.targets.tensorrt.rtx import build
from debiexport.targets.tensorrt.rtx_report import RtxBuild, RtxGridSample, RtxTensor

pytestmark = needs_rtx
Save = Callable[[onnx.ModelProto], Path]
PRODUCTS = ["scores", "values"]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def to_file(model: onnx.ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return to_file


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> tuple[RtxBuild, Path]:
    """An attention in float16, whose softmax is in float32, and its plan for two generations."""
    folder = tmp_path_factory.mktemp("attention")
    onnx.save(models.attention(), folder / "model.onnx")
    return build(folder / "model.onnx", folder / "model.plan", ["sm80", "sm89"]), folder / "model.plan"


def test_what_is_reported(attention: tuple[RtxBuild, Path]) -> None:
    found, plan = attention
    content = plan.read_bytes()
    assert (found.plan_bytes, found.plan_sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert [path.name for path in sorted(plan.parent.iterdir())] == ["model.onnx", "model.plan"]
    assert plan.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert (found.capabilities, found.profile) == (("sm80", "sm89"), None)
    assert found.version.startswith("1.")
    assert found.build_s > 0 and found.parse_s > 0
    assert found.peak_rss_mb is not None and 100 < found.peak_rss_mb < 2000
    assert "builds it for sm80, sm89: 6 layers, plan" in str(found)


def test_layers_and_tensors(attention: tuple[RtxBuild, Path]) -> None:
    found, _ = attention
    assert found.layer_types() == {
        "MATRIX_MULTIPLY": 2,
        "CAST": 2,
        "SOFTMAX": 1,
        "SHUFFLE": 1,
    }  # a helper without a node
    assert found.tensor_types() == {"float16": 3, "float32": 3}
    scores = found.layers[0]
    assert (scores.name, scores.node) == ("scores", "scores")
    assert scores.inputs == (
        RtxTensor("q", "float16", (1, 2, 16, 32)),
        RtxTensor("k", "float16", (1, 2, 32, 16)),
    )
    assert scores.outputs == (RtxTensor("s", "float16", (1, 2, 16, 16)),)


def test_attentions_are_recognised(attention: tuple[RtxBuild, Path]) -> None:
    found, _ = attention
    assert found.attentions == ("scores", "values")
    assert found.unfused(PRODUCTS) == []
    assert found.unfused(["other", *PRODUCTS]) == ["other"]


def test_products_without_a_softmax_are_not(save: Save) -> None:
    model = models.attention()
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Relu"
    del softmax.attribute[:]
    found = build(save(model), None, ["sm89"])
    assert found.attentions == () and found.unfused(PRODUCTS) == PRODUCTS


@pytest.mark.parametrize(
    ("model", "is_fused"),
    [(models.attention(tokens=1024), True), (models.attention(tokens=1024, rank=3), False)],
    ids=["rank 4", "rank 3"],
)
def test_scratch_memory_tells_whether_scores_are_held(save: Save, model: onnx.ModelProto, is_fused: bool) -> None:
    """Both are recognised; the one of rank 3 is computed in steps all the same."""
    found = build(save(model), None, ["sm89"])
    assert found.unfused(PRODUCTS) == []
    operands, scores = 4 * 2 * 1024 * 32 * 2, 2 * 1024 * 1024 * 2  # bytes in float16
    assert found.scratch_bytes is not None
    assert found.scratch_bytes == operands if is_fused else found.scratch_bytes > 2 * scores


def test_a_build_gives_the_same_bytes_again(attention: tuple[RtxBuild, Path], tmp_path: Path) -> None:
    found, plan = attention
    path = tmp_path / "again.plan"
    path.write_bytes(b"old")
    again = build(plan.with_name("model.onnx"), path, ["sm80", "sm89"])
    assert again.plan_sha256 == found.plan_sha256
    assert path.read_bytes() == plan.read_bytes()
    other = build(plan.with_name("model.onnx"), None, ["sm120"])
    assert other.plan_sha256 != found.plan_sha256


def test_float32_is_not_rounded_to_tf32() -> None:
    """The plan does not show it, so the settings of a build are read."""
    program = (
        "import tensorrt_rtx as trt; from debiexport.targets.tensorrt import rtx_worker as w;"
        " builder = trt.Builder(w._logger(trt, w.LogLines())); flag = trt.BuilderFlag.TF32;"
        " request = {'capabilities': ['sm89', 'sm80'], 'profile': None};"
        " config = w._config(trt, builder, builder.create_network(0), request);"
        " names = [config.get_compute_capability(i).name for i in range(config.num_compute_capabilities)];"
        " print(builder.create_builder_config().get_flag(flag), config.get_flag(flag), *names)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False", "SM89", "SM80"]


@pytest.mark.parametrize(
    ("attributes", "understood"),
    [
        ({}, ("linear", False, "fill")),
        ({"align_corners": 1, "padding_mode": "border"}, ("linear", True, "clamp")),
        ({"mode": "nearest", "padding_mode": "reflection"}, ("nearest", False, "reflect")),
        ({"mode": "linear"}, ("linear", False, "fill")),
    ],
    ids=str,
)
def test_grid_samples(save: Save, attributes: dict[str, Any], understood: tuple[str, bool, str]) -> None:
    found = build(save(models.grid_sample(**attributes)), None, ["sm89"])
    assert found.grid_samples == (RtxGridSample("bias", *understood),)
    assert found.layer_types()["GRID_SAMPLE"] == 1


def test_a_range_of_batches(save: Save) -> None:
    found = build(save(models.relu(("N", 3, 8, 8))), None, ["sm89"], profile=(1, 4, 8))
    assert found.profile == (1, 4, 8)
    assert found.layers[0].outputs[0].shape == (-1, 3, 8, 8)
    fixed = build(save(models.relu((4, 3, 8, 8))), None, ["sm89"], profile=(4, 4, 4))
    assert fixed.layers[0].outputs[0].shape == (4, 3, 8, 8)


def test_constants_in_a_file_beside_the_model(tmp_path: Path) -> None:
    weights = np.arange(4096, dtype=np.float32).reshape(64, 64)
    model = models.model(
        [models.node("MatMul", "x w", "y")], {"x": (F32, (2, 64))}, {"y": (F32, (2, 64))}, {"w": weights}
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert build(path, None, ["sm89"]).plan_bytes > weights.nbytes
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(EngineError, match="w: a constant cannot be read: put the model's file of weights beside it"):
        build(path, None, ["sm89"])


def test_a_refused_model_leaves_the_plan_as_it_was(save: Save, tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"old")
    with pytest.raises(EngineError, match="TensorRT refuses the graph: matmul"):
        build(save(models.mixed("MatMul")), plan, ["sm89"])
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.plan"]


def region_attention(routes: int) -> onnx.ModelProto:
    """A node of the plugin, on 14 x 14 tokens in 7 x 7 regions."""
    maps = (1, 14, 14, 32)
    node = models.node("RegionAttention", "q k v routes", "y", domain="debiexport", name="fused", heads=2, regions=7)
    inputs = {**dict.fromkeys("qkv", (F16, maps)), "routes": (routes, (1, 49, 4))}
    return models.model([node], inputs, {"y": (F16, maps)})


def test_plugins(save: Save) -> None:
    found = build(save(region_attention(TensorProto.INT32)), None, ["sm89"], with_plugins=True)
    assert found.layer_types()["PLUGIN_V3"] == 1
    assert found.layers[0].outputs == (RtxTensor("y", "float16", (1, 14, 14, 32)),)


def test_what_a_plugin_refuses(save: Save, one_line: Callable[[BaseException], str]) -> None:
    with pytest.raises(EngineError) as caught:
        build(save(region_attention(TensorProto.INT64)), None, ["sm89"], with_plugins=True)
    assert "routes is INT64 and has to be INT32" in one_line(caught.value)
    with pytest.raises(EngineError, match="no plugin RegionAttention is registered"):
        build(save(region_attention(TensorProto.INT32)), None, ["sm89"])


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
