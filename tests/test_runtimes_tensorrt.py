"""Engines that run: over a fake TensorRT on a fake GPU that compute the model, and on a real one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_cuda import FakeCuda, cudaError_t
from fake_tensorrt import FakeTensorRT
from tiny_onnx import images, tiny_model

from debiexport.errors import BundleError, DebiexportError, MissingDependencyError, UsageError
from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
from debiexport.runtimes import cuda
from debiexport.runtimes.base import Runtime
from debiexport.runtimes.ort import OrtRuntime
from debiexport.runtimes.tensorrt import TensorRTRuntime
from debiexport.targets.tensorrt.engine import BuiltEngine, build_engine
from debiexport.targets.tensorrt.profile import Profile

OneLine = Callable[[BaseException], str]
HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
RANGE = Profile(2, 4, 8)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda("NVIDIA L4")
    monkeypatch.setattr(cuda, "import_cuda_runtime", lambda: fake)
    return fake


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, gpu: FakeCuda) -> FakeTensorRT:
    module = FakeTensorRT(gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def build(folder: Path, model: onnx.ModelProto, profile: Profile | None = None) -> tuple[Path, BuiltEngine]:
    built = build_engine(model.SerializeToString(), profile=profile)
    (folder / "model.plan").write_bytes(built.plan)
    return folder / "model.plan", built


def load(folder: Path, model: onnx.ModelProto, profile: Profile | None = None) -> TensorRTRuntime:
    path, built = build(folder, model, profile)
    return TensorRTRuntime(path, built.fingerprint)


# ------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("dtype", [HALF, FLOAT])
def test_a_fixed_batch(trt: FakeTensorRT, tmp_path: Path, dtype: int) -> None:
    runtime = load(tmp_path, tiny_model(3, dtype))
    as_runtime: Runtime = runtime
    assert as_runtime.batch == 3 and runtime.profile == Profile(3, 3, 3)
    assert runtime.inputs == {"images": (3, 3, 8, 8)} and runtime.outputs == ["logits"]
    judge = OnnxEvaluator(tiny_model(3, dtype))
    results = []
    for seed in range(3):  # no run leaves anything to the next
        feed = {"images": images(3, seed)}
        results.append(as_runtime.run(feed)["logits"])
        assert np.array_equal(results[-1], judge.run(feed)["logits"]) and results[-1].dtype == np.float32
    assert not np.array_equal(results[0], results[1])  # copies: the second run did not overwrite the first


def test_a_range_of_batches(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine) -> None:
    runtime = load(tmp_path, tiny_model("N", FLOAT), RANGE)
    assert runtime.batch is None and runtime.profile == RANGE
    assert runtime.inputs == {"images": ("N", 3, 8, 8)}
    ort = onnx_runtime(tmp_path, "N")
    for batch in (8, 2, 5, 2):
        feed = {"images": images(batch, batch)}
        result = runtime.run(feed)["logits"]
        assert result.shape == (batch, 5) and np.abs(result - ort.run(feed)["logits"]).max() < 1e-6
        assert runtime.written_batch == batch
        assert runtime.transferred_bytes == (batch * 3 * 8 * 8 * 4, batch * 5 * 4)
    for batch in (0, 1, 9):
        with pytest.raises(UsageError) as caught:
            runtime.run({"images": images(batch)})
        assert f"a batch of {batch}, but model.plan takes 2:4:8" in one_line(caught.value)


def onnx_runtime(folder: Path, batch: int | str) -> OrtRuntime:
    onnx.save(tiny_model(batch, FLOAT), folder / "model.onnx")
    return OrtRuntime(folder / "model.onnx", threads=1)


def test_other_numbers_of_the_same_kind_are_converted(trt: FakeTensorRT, tmp_path: Path) -> None:
    runtime = load(tmp_path, tiny_model(1, FLOAT))
    wanted = runtime.run({"images": images(1)})["logits"]
    given = np.asfortranarray(images(1).astype(np.float64))
    assert np.array_equal(runtime.run({"images": given})["logits"], wanted)


def test_bytes_stay_bytes(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine) -> None:
    model = tiny_model(1, FLOAT)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    runtime = load(tmp_path, model)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8)
    feed = {"images": pixels}
    assert np.array_equal(runtime.run(feed)["logits"], OnnxEvaluator(model).run(feed)["logits"])
    with pytest.raises(UsageError) as caught:
        runtime.run({"images": images(1)})
    assert one_line(caught.value) == ("the input 'images' is [1, 3, 8, 8] of float32: give [1, 3, 8, 8] of uint8")


def test_inputs_that_do_not_fit(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine) -> None:
    runtime = load(tmp_path, tiny_model(1, FLOAT))
    good = images(1)
    for inputs, words in (
        ({}, "the inputs are none: give images"),
        ({"image": good}, "the inputs are image: give images"),
        ({"images": good, "more": good}, "the inputs are images, more: give images"),
        ({"images": images(2)}, "is [2, 3, 8, 8] of float32: give [1, 3, 8, 8] of float32"),
        ({"images": good[0]}, "is [3, 8, 8] of float32"),
        ({"images": good.astype(np.complex64)}, "of complex64: give"),
    ):
        with pytest.raises(UsageError) as caught:
            runtime.run(inputs)
        assert words in one_line(caught.value)
    ranged = load(tmp_path, tiny_model("N", FLOAT), RANGE)
    with pytest.raises(UsageError, match="a batch of 0"):
        ranged.run({"images": np.float32(1)})


def test_taps(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine) -> None:
    runtime = load(tmp_path, tiny_model(1, FLOAT))
    feed = {"images": images(1)}
    assert runtime.run(feed, ["logits"]).keys() == {"logits"}
    with pytest.raises(BundleError) as caught:
        runtime.run(feed, ["logits", "stage1.block0.attn1.affinity"])
    assert "has no output 'stage1.block0.attn1.affinity'" in one_line(caught.value)
    assert "run the bundle's ONNX model" in str(caught.value)


def test_the_steps_of_a_run(trt: FakeTensorRT, gpu: FakeCuda, tmp_path: Path) -> None:
    runtime = load(tmp_path, tiny_model(1, FLOAT))
    runtime.write({"images": images(1)})
    runtime.upload()
    runtime.enqueue()
    runtime.download()
    early = runtime.read()["logits"]
    runtime.stream.synchronize()
    late = runtime.read()["logits"]
    assert not np.array_equal(early, late)
    assert np.array_equal(late, OnnxEvaluator(tiny_model(1, FLOAT)).run({"images": images(1)})["logits"])


def test_what_it_holds_is_given_back(trt: FakeTensorRT, gpu: FakeCuda, tmp_path: Path) -> None:
    runtime = load(tmp_path, tiny_model(1, FLOAT))
    assert gpu.held == 5  # two tensors, each here and there, and a stream
    runtime.close()
    assert gpu.held == 0


# ------------------------------------------------------------------------------- refusals


def test_an_engine_of_elsewhere_is_refused_before_tensorrt_sees_it(
    trt: FakeTensorRT, tmp_path: Path, one_line: OneLine
) -> None:
    path, built = build(tmp_path, tiny_model(1, FLOAT))
    seen = trt.deserialized
    for changes, words in (
        ({"version": "11.3.0.99"}, "model.plan cannot run here: the engine was built with TensorRT 11.3.0.99"),
        ({"gpu": "NVIDIA L40S"}, "the engine was built on NVIDIA L40S (8.9), this is NVIDIA L4 (8.9)"),
        ({"compute_capabilities": ("9.0",)}, "the engine is for compute capability 9.0"),
    ):
        with pytest.raises(MissingDependencyError) as caught:
            TensorRTRuntime(path, replace(built.fingerprint, **changes))
        assert words in one_line(caught.value)
    assert trt.deserialized == seen


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"a header before the plan"])
def test_a_damaged_engine(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine, damage: bytes) -> None:
    path, built = build(tmp_path, tiny_model(1, FLOAT))
    path.write_bytes(damage + (built.plan if damage.startswith(b"a") else b""))
    with pytest.raises(BundleError) as caught:
        TensorRTRuntime(path, built.fingerprint)
    text = one_line(caught.value)
    assert "model.plan is refused by TensorRT: IRuntime::deserializeCudaEngine" in text and "build it again" in text
    path.unlink()
    with pytest.raises(BundleError, match=r"cannot be read \(No such file"):
        TensorRTRuntime(path, built.fingerprint)


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ("context", "gets no context: it does not say why; free memory"),
        ("address", "refuses memory for 'images'"),
        ("shape", "refuses a batch of 2"),
        ("run", "model.plan does not run"),
    ],
)
def test_what_tensorrt_refuses(
    trt: FakeTensorRT, gpu: FakeCuda, tmp_path: Path, one_line: OneLine, refuses: str, words: str
) -> None:
    path, built = build(tmp_path, tiny_model("N", FLOAT), RANGE)
    trt.refuses = refuses
    with pytest.raises(DebiexportError) as caught:
        TensorRTRuntime(path, built.fingerprint).run({"images": images(2)})
    assert words in one_line(caught.value)


def test_too_little_memory(trt: FakeTensorRT, gpu: FakeCuda, tmp_path: Path) -> None:
    path, built = build(tmp_path, tiny_model(1, FLOAT))
    gpu.refused["cudaMallocHost"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(DebiexportError, match="cudaErrorMemoryAllocation"):
        TensorRTRuntime(path, built.fingerprint)
    assert gpu.held == 0  # nothing is left behind


def test_engines_that_this_project_does_not_build(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine) -> None:
    model = tiny_model(1, FLOAT)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    with pytest.raises(BundleError) as caught:
        load(tmp_path, model)
    assert "'logits' of model.plan is [1, 5] of BF16: not built by debiexport" in one_line(caught.value)
    model = tiny_model(1, FLOAT)
    del model.graph.input[:]
    with pytest.raises(BundleError, match="no input with a batch"):
        _load_without_building(tmp_path, model, trt)
    with pytest.raises(BundleError, match="the batches of an engine are"):
        _load_without_building(tmp_path, tiny_model(2000, FLOAT), trt)


def _load_without_building(folder: Path, model: onnx.ModelProto, trt: FakeTensorRT) -> TensorRTRuntime:
    path, built = build(folder, tiny_model(1, FLOAT))
    network = trt.network
    network.model = model
    plan = trt.Builder(_Ready()).build_serialized_network(network, trt.config)
    path.write_bytes(bytes(plan))
    return TensorRTRuntime(path, built.fingerprint)


class _Ready:
    ready = True


def test_no_tensorrt(trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, built = build(tmp_path, tiny_model(1, FLOAT))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    told = r"running model\.plan needs an NVIDIA GPU and TensorRT 10\.13 or newer, which cannot be imported here"
    with pytest.raises(MissingDependencyError, match=told):
        TensorRTRuntime(path, built.fingerprint)


def test_engines_of_tensorrt_for_rtx(gpu: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(gpu))
    path, built = build(tmp_path, tiny_model(1, FLOAT))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT(gpu, "1.7.1.116", "tensorrt_rtx"))
    bound = replace(
        built.fingerprint, flavour="rtx", version="1.7.1.116", gpu=None, compute_capabilities=("8.6", "8.9")
    )
    assert TensorRTRuntime(path, bound).run({"images": images(1)})["logits"].shape == (1, 5)


# ------------------------------------------------------------------------------- a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, "N"])
def test_on_a_gpu(tmp_path: Path, batch: int | str) -> None:
    try:
        from debiexport.targets.tensorrt.version import require_tensorrt

        require_tensorrt("this test")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    runtime = load(tmp_path, tiny_model(batch, FLOAT), None if batch == 1 else RANGE)
    ort = onnx_runtime(tmp_path, batch)
    for n in (1,) if batch == 1 else (RANGE.max, RANGE.min):
        feed = {"images": images(n, n)}
        result, wanted = runtime.run(feed)["logits"], ort.run(feed)["logits"]
        assert np.abs(result - wanted).max() <= 1e-5 * np.abs(wanted).max()
    runtime.close()
