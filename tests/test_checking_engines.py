"""`check` of a TensorRT bundle: without a GPU, and with engines that run on the fakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_bundles import edit, engine, remove_engine
from fake_cuda import cudaError_t
from fake_tensorrt import FakeTensorRT

from debiexport import checking
from debiexport.bundle import Bundle, open_bundle
from debiexport.checking import CheckResult, check
from debiexport.checking_engines import EngineCheck, EnginesFailed, check_engines, why_not_run
from debiexport.cli.main import run
from debiexport.errors import BundleError, MissingDependencyError, UsageError
from debiexport.parity_report import ParityReport

OneLine = Callable[[BaseException], str]


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the typed model had been evaluated and compared; the evaluator has tests of its own."""
    report = ParityReport("golden", "fp16", 1e-7, 1e-6, (), (), min_psnr_db=55.0)
    monkeypatch.setattr(ParityReport, "failures", [])
    monkeypatch.setattr(ParityReport, "__str__", lambda self: "parity holds")
    monkeypatch.setattr(checking, "_judge_in_full", lambda *arguments: report)


def checked(folder: Path) -> tuple[EngineCheck, ...]:
    return check_engines(open_bundle(folder))


# ------------------------------------------------------------------------------- engines that run


def test_the_smallest_and_the_largest_batch(engine_bundle: Path, trt: FakeTensorRT) -> None:
    lines: list[str] = []
    checks = check_engines(open_bundle(engine_bundle), lines.append)
    assert [(one.engine, one.batch, one.failure) for one in checks] == [
        ("model.plan", 1, None),
        ("model.plan", 4, None),
    ]
    assert lines == ["running model.plan at batch 1 and 4"] and trt.deserialized == 1
    assert trt.cuda.held == 0
    small, large = checks
    assert small.parity is not None and large.parity is not None
    assert small.parity.outputs.images == 7 and large.parity.outputs.images == 8  # the last batch wraps round
    assert str(small).startswith("model.plan, batch 1: parity holds: PSNR ")
    data = json.loads(json.dumps(large.to_dict(), allow_nan=False))
    assert (data["engine"], data["batch"], data["ok"], data["failure"]) == ("model.plan", 4, True, None)
    assert data["parity"]["ok"] and data["parity"]["min_psnr_db"] == 55


@pytest.mark.usefixtures("proven")
def test_they_are_part_of_a_check(engine_bundle: Path, trt: FakeTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(engine_bundle), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[-2:]] == ["model.plan, batch 1", "model.plan, batch 4"]
    assert run(["check", str(engine_bundle), "-q", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["batch"] for one in data["engines"]] == [1, 4]


def test_nothing_replaced(engine_bundle: Path, trt: FakeTensorRT) -> None:
    result = check(engine_bundle, threads=1)
    assert result.parity.ok and result.parity.method == "reference"
    assert [one.failure for one in result.engines] == [None, None]


# ------------------------------------------------------------------------------- engines that fail


@pytest.mark.usefixtures("proven")
def test_one_batch_that_is_wrong_is_named_and_the_other_reported(
    engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine
) -> None:
    trt.spoils = lambda batch: batch == 4
    with pytest.raises(EnginesFailed) as caught:
        check(engine_bundle)
    text = one_line(caught.value)
    assert "model.plan, batch 4: parity is lost: PSNR" in text and text.endswith("build it again on this machine")
    assert caught.value.exit_code == 3
    result = caught.value.result
    assert isinstance(result, CheckResult) and result.parity.ok
    assert [one.failure is None for one in result.engines] == [True, False]


@pytest.mark.usefixtures("proven")
def test_a_failure_on_the_command_line(
    engine_bundle: Path, trt: FakeTensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    trt.spoils = lambda batch: True
    assert run(["check", str(engine_bundle), "-q"]) == 3
    said = capsys.readouterr()
    assert said.out.count("parity is lost: PSNR") == 2 and said.err.count("error: ") == 1
    assert "model.plan, batch 1: parity is lost" in said.err and "and 1 more failures" in said.err
    assert run(["check", str(engine_bundle), "-q", "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["exit_code"] == 3 and "batch 1: parity is lost" in data["error"]
    assert [one["ok"] for one in data["engines"]] == [False, False]


@pytest.mark.parametrize(
    ("refuses", "words"),
    [("run", "model.plan does not run"), ("shape", "model.plan refuses a batch of 1")],
)
def test_an_engine_that_fails_while_it_runs(engine_bundle: Path, trt: FakeTensorRT, refuses: str, words: str) -> None:
    trt.refuses = refuses
    (failed,) = checked(engine_bundle)
    assert failed.failure is not None and words in failed.failure
    assert failed.to_dict()["parity"] is None and not failed.to_dict()["ok"]
    assert words in str(failed) and trt.cuda.held == 0


@pytest.mark.usefixtures("proven")
def test_a_gpu_that_is_lost_meanwhile(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    """CUDA tells of such an error from then on, also while memory is given back."""
    trt.cuda.refused["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EnginesFailed) as caught:
        check(engine_bundle)
    assert "model.plan, batch 1: CUDA refuses cudaStreamSynchronize: cudaErrorIllegalAddress" in one_line(caught.value)


# ------------------------------------------------------------------------------- engines of elsewhere


@pytest.mark.usefixtures("proven")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "11.3.0.99"}, "the engine was built with TensorRT 11.3.0.99, this is 11.4.0.106"),
        ({"gpu": "NVIDIA L40S"}, "the engine was built on NVIDIA L40S (8.9), this is NVIDIA L4 (8.9)"),
        ({"compute_capabilities": ["9.0"]}, "the engine is for compute capability 9.0"),
    ],
)
def test_an_engine_of_elsewhere_is_refused_before_tensorrt_sees_it(
    engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine, change: dict[str, Any], words: str
) -> None:
    edit(engine_bundle, lambda data: engine(data)["fingerprint"].update(change))
    with pytest.raises(MissingDependencyError) as caught:
        check(engine_bundle)
    assert words in one_line(caught.value) and "build it again" in str(caught.value)
    assert caught.value.exit_code == 5 and trt.deserialized == 0


@pytest.mark.usefixtures("proven")
def test_without_a_gpu_a_note_says_so(engine_bundle: Path, trt: FakeTensorRT) -> None:
    trt.cuda.count = 0
    result = check(engine_bundle)
    assert result.engines == () and result.to_dict()["engines"] == []
    assert "no engine was run, what was judged is the typed model: running an engine needs" in result.notes[-1]


@pytest.mark.usefixtures("proven")
def test_without_tensorrt_a_note_says_so(
    engine_bundle: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "running an engine needs an NVIDIA GPU and TensorRT 10.13 or newer" in check(engine_bundle).notes[-1]


def test_an_engine_for_rtx_needs_its_own_tensorrt(
    engine_bundle: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(engine_bundle, lambda data: engine(data)["fingerprint"].update(flavour="rtx"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert "needs TensorRT for RTX, which is not installed here" in str(why_not_run(open_bundle(engine_bundle)))


def test_a_bundle_without_an_engine(engine_bundle: Path, trt: FakeTensorRT) -> None:
    edit(engine_bundle, remove_engine)
    bundle = open_bundle(engine_bundle)
    assert why_not_run(bundle) == "the bundle has no engine: what was judged is the typed model"
    assert check_engines(bundle) == ()


# ------------------------------------------------------------------------------- damage


@pytest.mark.usefixtures("proven")
@pytest.mark.parametrize("damage", ["altered", "truncated", "gone"])
def test_a_damaged_engine_is_not_loaded(engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine, damage: str) -> None:
    path = engine_bundle / "model.plan"
    content = path.read_bytes()
    if damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncated":
        path.write_bytes(content[:100])
    else:
        path.unlink()
    with pytest.raises(BundleError) as caught:
        check(engine_bundle)
    assert "model.plan" in one_line(caught.value) and caught.value.exit_code == 4
    assert trt.deserialized == 0


@pytest.mark.usefixtures("proven")
@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.clear(),
        lambda record: record.pop("profile"),
        lambda record: record.update(more=1),
        lambda record: record.update(model=3),
        lambda record: record.update(contents=None),
        lambda record: record["profile"].update(max="4"),
        lambda record: record["profile"].update(min=5),
        lambda record: record["fingerprint"].update(flavour="other"),
        lambda record: record["fingerprint"].update(compute_capabilities=[]),
    ],
)
def test_a_damaged_record(
    engine_bundle: Path, trt: FakeTensorRT, one_line: OneLine, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(engine_bundle, lambda data: change(engine(data)))
    with pytest.raises(BundleError) as caught:
        check(engine_bundle)
    assert "export again" in one_line(caught.value) and caught.value.exit_code == 4
    assert trt.deserialized == 0


def test_an_engine_that_nothing_is_known_of(engine_bundle: Path, trt: FakeTensorRT) -> None:
    edit(engine_bundle, lambda data: data["artifacts"][2].pop("engine"))
    with pytest.raises(BundleError, match="the manifest's entry of an engine is damaged"):
        why_not_run(open_bundle(engine_bundle))


def test_an_engine_that_tensorrt_refuses(engine_bundle: Path, trt: FakeTensorRT) -> None:
    trt.refuses = "engine"
    with pytest.raises(BundleError, match=r"model\.plan is refused by TensorRT"):
        checked(engine_bundle)


def test_a_manifest_that_does_not_say_what_is_to_be_reached(engine_bundle: Path, trt: FakeTensorRT) -> None:
    edit(engine_bundle, lambda data: data["parity"].pop("min_psnr_db"))
    bundle: Bundle = open_bundle(engine_bundle)
    with pytest.raises(UsageError, match="has no min_psnr_db"):
        check_engines(bundle)
