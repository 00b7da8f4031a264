"""Engines measured: on a fake GPU whose clocks are known, and on a real one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_cuda import COPY_CALL_NS, DOWNLOAD_NS_PER_BYTE, GRAPH_CALL_NS, UPLOAD_NS_PER_BYTE, FakeCuda, cudaError_t
from fake_tensorrt import FakeTensorRT
from fake_tensorrt_engine import COMPUTE_NS, ENQUEUE_NS
from tiny_onnx import images, tiny_model

from debiexport.bench import tensorrt as bench
from debiexport.bench.report import Numerics
from debiexport.bench.runner import Plan
from debiexport.bench.tensorrt import DIRECT, GRAPH, PARTS, clock_warnings, measure_engine
from debiexport.environment import describe_environment
from debiexport.errors import DebiexportError, MissingDependencyError, UsageError
from debiexport.runtimes import cuda
from debiexport.runtimes.tensorrt import TensorRTRuntime
from debiexport.targets.tensorrt.engine import build_engine
from debiexport.targets.tensorrt.profile import Profile

OneLine = Callable[[BaseException], str]
FLOAT = onnx.TensorProto.FLOAT
QUICK = Plan(
    min_time_s=0.05,
    min_count=20,
    max_time_s=1.0,
    p99_width=math.inf,
    warmup_window_runs=3,
    warmup_window_s=0.005,
    warmup_windows=2,
    block_s=0.02,
    block_min_runs=5,
    dropped_runs=2,
)
BATCH = 2
UP, DOWN = BATCH * 3 * 8 * 8 * 4, BATCH * 5 * 4


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda("NVIDIA L4")
    monkeypatch.setattr(cuda, "import_cuda_runtime", lambda: fake)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(fake))
    told = ({"name": "NVIDIA L4", "clocks.sm": "2040 MHz", "clocks_throttle_reasons.active": "0x0000000000000000"},)
    environment = replace(describe_environment(), gpus=told)
    monkeypatch.setattr(bench, "describe_environment", lambda: environment)
    return fake


def load(folder: Path, batch: int | str = BATCH, profile: Profile | None = None) -> TensorRTRuntime:
    built = build_engine(tiny_model(batch, FLOAT).SerializeToString(), profile=profile)
    (folder / "model.plan").write_bytes(built.plan)
    return TensorRTRuntime(folder / "model.plan", built.fingerprint)


def pool(batch: int = BATCH) -> list[dict[str, np.ndarray]]:
    return [{"images": images(batch, seed)} for seed in range(3)]


# ------------------------------------------------------------------------------- the figures


def test_every_part_is_what_it_says(gpu: FakeCuda, tmp_path: Path) -> None:
    told: list[str] = []
    result = measure_engine(load(tmp_path), pool(), QUICK, clock=gpu.clock, progress=told.append)
    direct, graph = result.launches
    assert (direct.launch, graph.launch) == (DIRECT, GRAPH) and len(told) == 2
    uploaded_ns, downloaded_ns = UP * UPLOAD_NS_PER_BYTE, DOWN * DOWNLOAD_NS_PER_BYTE
    for report, enqueue_ns in ((direct, ENQUEUE_NS), (graph, GRAPH_CALL_NS)):
        # The GPU waits for the host: the copy begins when it is handed over, the work when that is.
        upload_ns = COPY_CALL_NS + uploaded_ns
        computed_ns = COPY_CALL_NS + enqueue_ns + COMPUTE_NS
        wanted = {
            "wall": computed_ns + downloaded_ns,
            "enqueue": enqueue_ns,
            "upload": upload_ns,
            "compute": computed_ns - upload_ns,
            "download": downloaded_ns,
        }
        assert list(report.parts) == list(PARTS) == list(wanted)
        for name, ns in wanted.items():
            part = report.parts[name]
            assert part.p50.value == pytest.approx(ns / 1e6, rel=1e-12), name
            assert part.min_ms == pytest.approx(part.max_ms, rel=1e-12)
        runs = sum(map(len, report.measurement.blocks))
        assert report.measurement.converged and all(part.n == runs for part in report.parts.values())
        assert report.warnings == ()
    assert result.ratio is not None and result.ratio.ratio.value == pytest.approx(
        direct.parts["wall"].p50.value / graph.parts["wall"].p50.value
    )
    assert result.images_per_s == pytest.approx(BATCH * 1e3 / graph.parts["wall"].mean_ms)


def test_the_warm_up_and_the_first_runs_of_a_block_do_not_count(gpu: FakeCuda, tmp_path: Path) -> None:
    """The first runs of a subject after the other's are slow: none of that is in the figures."""
    runtime = load(tmp_path)
    real, state = runtime.enqueue, {"graphs": 0, "since": 0}

    def enqueue() -> None:
        launched = gpu.calls.count("cudaGraphLaunch")
        if launched != state["graphs"]:
            state.update(graphs=launched, since=0)
        state["since"] += 1
        if state["since"] <= QUICK.dropped_runs:
            gpu.host_ns += 5_000_000
        real()

    runtime.enqueue = enqueue  # type: ignore[method-assign]
    result = measure_engine(runtime, pool(), QUICK, clock=gpu.clock)
    assert result.launches[0].parts["enqueue"].max_ms == pytest.approx(ENQUEUE_NS / 1e6)


def test_without_a_graph(gpu: FakeCuda, tmp_path: Path) -> None:
    result = measure_engine(load(tmp_path), pool(), QUICK, cuda_graph=False, clock=gpu.clock)
    assert [report.launch for report in result.launches] == [DIRECT]
    assert result.ratio is None and result.no_graph_because is None and quiet(result.warnings) == []
    assert result.to_dict()["ratio"] is None and "kernel by kernel: wall p50" in str(result)


def test_an_engine_that_cannot_be_captured(gpu: FakeCuda, tmp_path: Path) -> None:
    gpu.refused["cudaStreamEndCapture"] = cudaError_t.cudaErrorStreamCaptureUnsupported
    result = measure_engine(load(tmp_path), pool(), QUICK, clock=gpu.clock)
    assert [report.launch for report in result.launches] == [DIRECT]
    assert any("no CUDA graph: CUDA refuses cudaStreamEndCapture" in warning for warning in result.warnings)


def test_a_range_of_batches(gpu: FakeCuda, tmp_path: Path) -> None:
    runtime = load(tmp_path, "N", Profile(1, 4, 8))
    for batch in (8, 3):
        result = measure_engine(runtime, pool(batch), QUICK, clock=gpu.clock)
        assert result.batch == batch
        assert (result.uploaded_bytes, result.downloaded_bytes) == (batch * 3 * 8 * 8 * 4, batch * 5 * 4)
        # The engine computed each run's own inputs, also as a graph.
        wanted = runtime.run(pool(batch)[0])["logits"]
        assert wanted.shape == (batch, 5)


def test_the_result_for_programs(gpu: FakeCuda, tmp_path: Path) -> None:
    numerics = Numerics("golden", 1e-3, 2e-3, 1.0, 0)
    result = measure_engine(load(tmp_path), pool(), QUICK, numerics=numerics, clock=gpu.clock)
    data = json.loads(json.dumps(result.to_dict()))
    assert (data["format"], data["format_version"], data["engine"]) == ("debiexport-tensorrt-latency", 1, "model.plan")
    assert data["fingerprint"] == "TensorRT 11.4.0.106, NVIDIA L4 (8.9)" and data["batch"] == BATCH
    assert data["transfers"] == {"uploaded_bytes": UP, "downloaded_bytes": DOWN}
    assert set(data["measured"]) == set(PARTS) < set(data["launches"][0])
    assert data["launches"][1]["enqueue"]["p50_ms"]["value"] == GRAPH_CALL_NS / 1e6
    assert data["numerics"]["relative_error"] == 1e-3 and data["plan"]["dropped_runs"] == 2
    assert data["ratio"]["numerator"] == DIRECT and data["gpus_before"][0]["clocks.sm"] == "2040 MHz"
    assert str(result).splitlines()[-1].startswith(f"{DIRECT} takes 1.15 [1.15, 1.15] times as long as {GRAPH}")


# ------------------------------------------------------------------------------- warnings


def quiet(warnings: list[str]) -> list[str]:
    """The warnings but for what else runs on this machine."""
    return [warning for warning in warnings if not warning.startswith("CONTENDED")]


def test_what_makes_figures_less_than_trustworthy(gpu: FakeCuda, tmp_path: Path) -> None:
    runtime = load(tmp_path)
    real = runtime.enqueue

    def slow() -> None:
        gpu.host_ns += 3_000_000 * (1 + len(gpu.calls) % 3)
        real()

    runtime.enqueue = slow  # type: ignore[method-assign]
    plan = replace(QUICK, min_count=10_000, max_time_s=0.2, warmup_max_s=0.05)
    result = measure_engine(runtime, pool(), plan, cuda_graph=False, clock=gpu.clock)
    told = " | ".join(result.warnings)
    assert "not converged" in told and "of 10000 runs" in told
    assert not result.launches[0].to_dict()["converged"]


def test_enqueue_bound(gpu: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_tensorrt_engine

    monkeypatch.setattr(fake_tensorrt_engine, "COMPUTE_NS", 200_000)
    runtime = load(tmp_path)
    real = runtime.enqueue

    def late() -> None:
        real()
        gpu.host_ns += 1_000_000  # the host still works when the GPU has begun

    runtime.enqueue = late  # type: ignore[method-assign]
    result = measure_engine(runtime, pool(), QUICK, clock=gpu.clock)
    assert any("enqueue-bound" in warning for warning in result.launches[0].warnings)
    assert result.launches[1].warnings == ()


def gpus(clock: str = "2040 MHz", reasons: str = "Not Active") -> tuple[dict[str, str], ...]:
    return ({"clocks.sm": clock, "clocks_throttle_reasons.active": reasons},)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (gpus(), gpus(), []),
        (gpus("2000 MHz"), gpus("2040 MHz"), []),
        (gpus("[N/A]"), gpus("[N/A]"), []),
        (gpus(reasons="0x0000000000000001"), gpus(reasons="0x0000000000000001"), []),
        (gpus("1500 MHz"), gpus("2040 MHz"), ["not fixed, 1500 to 2040 MHz: fix it with nvidia-smi --lock-gpu-clocks"]),
        (gpus(), gpus(reasons="0x0000000000000004"), ["throttle reasons 0x0000000000000004"]),
        (None, gpus(), ["clocks are unknown"]),
        (gpus(), (), ["clocks are unknown"]),
    ],
)
def test_clock_warnings(before: Any, after: Any, words: list[str]) -> None:
    found = clock_warnings(before, after)
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))


# ------------------------------------------------------------------------------- refusals


def test_pools_that_do_not_fit(gpu: FakeCuda, tmp_path: Path, one_line: OneLine) -> None:
    runtime = load(tmp_path, "N", Profile(1, 4, 8))
    for given, count in (([], 0), ([*pool(1), *pool(2)], 2)):
        with pytest.raises(UsageError) as caught:
            measure_engine(runtime, given, QUICK, clock=gpu.clock)
        assert f"the inputs to measure with are of {count} forms" in one_line(caught.value)
    with pytest.raises(UsageError, match="a batch of 9"):
        measure_engine(runtime, pool(9), QUICK, clock=gpu.clock)


def test_an_engine_that_fails_is_not_timed(gpu: FakeCuda, tmp_path: Path) -> None:
    runtime = load(tmp_path)
    gpu.refused["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(DebiexportError, match="cudaErrorIllegalAddress"):
        measure_engine(runtime, pool(), QUICK, clock=gpu.clock)


# ------------------------------------------------------------------------------- a GPU


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    try:
        from debiexport.targets.tensorrt.version import require_tensorrt

        require_tensorrt("this test")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    result = measure_engine(load(tmp_path), pool(), replace(QUICK, max_time_s=2.0))
    assert [report.launch for report in result.launches] == [DIRECT, GRAPH]
    for report in result.launches:
        parts = {name: part.p50.value for name, part in report.parts.items()}
        assert 0 < parts["compute"] < parts["wall"]
