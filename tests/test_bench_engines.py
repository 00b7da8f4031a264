"""`measure_engines`: engines that are proven and timed, over the fakes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_bundles import QUICK, edit, engine, remove_engine
from fake_cuda import cudaError_t
from fake_tensorrt import FakeTensorRT

import debiexport
from debiexport.bench import engines as module
from debiexport.bench.engines import EnginesResult, measure_engines
from debiexport.bench.tensorrt import DIRECT, GRAPH
from debiexport.bundle import open_bundle
from debiexport.checking_engines import EnginesFailed
from debiexport.errors import BundleError, DebiexportError, MissingDependencyError, UsageError

OneLine = Callable[[BaseException], str]


def measured(folder: Path, batch: int | None = None) -> EnginesResult:
    return measure_engines(folder, batch=batch, plan=QUICK)


def test_an_engine_is_proven_and_timed(engine_bundle: Path, trt: FakeTensorRT) -> None:
    lines: list[str] = []
    result = measure_engines(engine_bundle, plan=QUICK, progress=lines.append)
    assert lines[:2] == ["comparing model.plan with the stored answers, batch 2", "timing model.plan"]
    ((check, latency),) = ((one.check, one.latency) for one in result.engines)
    assert (check.engine, check.batch, check.failure) == ("model.plan", 2, None)
    assert [report.launch for report in latency.launches] == [DIRECT, GRAPH]
    assert (latency.batch, latency.uploaded_bytes) == (2, 2 * 3 * 64 * 64 * 4)
    assert (result.precision, result.notes, result.bundle) == ("fp16", (), str(engine_bundle))
    assert trt.cuda.held == 0


def test_the_report(engine_bundle: Path, trt: FakeTensorRT) -> None:
    result = measured(engine_bundle, batch=4)
    first, *others = result.report().splitlines()
    assert first == "model.plan (fp16), TensorRT 11.4.0.106, NVIDIA L4 (8.9), batch 4"
    assert all(line.startswith("  ") for line in others)
    text = result.report()
    assert f"  {DIRECT}: wall p50 " in text and f"  {GRAPH}: wall p50 " in text
    assert "images/s at concurrency 1; 0.20 MB to the GPU and 0.000 MB back in every run" in text
    assert "  parity holds: PSNR " in text
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["precision"] == "fp16" and data["engines"][0]["check"]["ok"]
    assert data["engines"][0]["latency"]["batch"] == 4
    assert data["engines"][0]["latency"]["transfers"]["downloaded_bytes"] == 4 * 6 * 4


def test_an_opened_bundle_and_one_that_lost_parity(engine_bundle: Path, trt: FakeTensorRT) -> None:
    renamed = engine_bundle.rename(engine_bundle.with_name("engine.unverified"))
    result = measure_engines(open_bundle(renamed), plan=QUICK)
    assert result.notes == ("the bundle lost parity when it was exported: do not deploy it",)


def test_an_engine_that_is_wrong_is_not_timed(
    engine_bundle: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    monkeypatch.setattr(module, "measure_engine", lambda *arguments, **options: pytest.fail("it was timed"))
    trt.spoils = lambda batch: True
    with pytest.raises(EnginesFailed) as caught:
        measured(engine_bundle)
    assert "model.plan, batch 2: parity is lost: PSNR" in one_line(caught.value) and caught.value.exit_code == 3
    assert trt.cuda.held == 0


@pytest.mark.parametrize("batch", [5, 0])
def test_a_batch_that_no_engine_takes(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine, batch: int) -> None:
    with pytest.raises(UsageError) as caught:
        measured(engine_bundle, batch=batch)
    assert f"the batch is {batch}, but the engines of {engine_bundle} take 1:2:4" in one_line(caught.value)
    assert trt.deserialized == 0


def test_no_engine(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    edit(engine_bundle, remove_engine)
    with pytest.raises(UsageError) as caught:
        measured(engine_bundle)
    assert "has no engine to be measured" in one_line(caught.value)
    assert "--engine tensorrt" in str(caught.value)


def test_another_target(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    edit(engine_bundle, lambda data: data.update(target="onnx"))
    with pytest.raises(UsageError) as caught:
        measured(engine_bundle)
    assert "is a bundle of the target onnx: give one of tensorrt" in one_line(caught.value)
    with pytest.raises(UsageError, match="no bundle at"):
        measured(engine_bundle / "nowhere")


def test_options_of_the_timing(engine_bundle: Path, trt: FakeTensorRT) -> None:
    with pytest.raises(UsageError):
        measure_engines(engine_bundle, min_time=-1)
    assert trt.deserialized == 0


def test_no_gpu(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    trt.cuda.count = 0
    with pytest.raises(MissingDependencyError) as caught:
        measured(engine_bundle)
    assert "running model.plan needs an NVIDIA GPU" in one_line(caught.value) and caught.value.exit_code == 5


def test_an_engine_of_elsewhere(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    edit(engine_bundle, lambda data: engine(data)["fingerprint"].update(version="11.3.0.99"))
    with pytest.raises(MissingDependencyError) as caught:
        measured(engine_bundle)
    assert "was built with TensorRT 11.3.0.99" in one_line(caught.value) and trt.deserialized == 0


def test_damage(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    (engine_bundle / "model.plan").write_bytes(b"fake plan {}")
    with pytest.raises(BundleError) as caught:
        measured(engine_bundle)
    assert "model.plan" in one_line(caught.value) and trt.deserialized == 0


def test_a_gpu_that_fails(engine_bundle: Path, trt: FakeTensorRT) -> None:
    trt.cuda.refused["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(DebiexportError, match="free memory of the GPU, or take a smaller batch"):
        measured(engine_bundle)


def test_from_python(engine_bundle: Path) -> None:
    assert debiexport.measure_engines is measure_engines and debiexport.EnginesResult is EnginesResult
    with pytest.raises(UsageError, match="is a TensorRT bundle: measure it by itself, with measure_engines"):
        debiexport.measure_latency([engine_bundle])
