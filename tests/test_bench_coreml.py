"""`measure_coreml` with real processes and a model that stands in for Core ML's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fake_coreml
import numpy as np
import pytest

from debiexport.answer_parity import FLIPS, GATE, PsnrGate, judge_answers, psnr_gate
from debiexport.bench.coreml import measure_coreml
from debiexport.bench.coreml_report import CoreMLLatencyResult
from debiexport.bench.coreml_rounds import Timed, time_by_turns, wanting
from debiexport.bench.runner import Plan
from debiexport.bundle import PACKAGE, Bundle, describe_file
from debiexport.cards import Card
from debiexport.environment import UNKNOWN
from debiexport.errors import BundleError, MissingDependencyError, UsageError
from debiexport.geometry import Geometry
from debiexport.golden import Golden, read_golden
from debiexport.lowerings import find_lowering
from debiexport.manifest import COREML, ONNX, Manifest
from debiexport.runtimes import coreml_process, macos
from debiexport.runtimes.base import Array
from debiexport.runtimes.coreml_process import Times, UnitFailed
from debiexport.runtimes.mac import Power
from debiexport.runtimes.macos import ALL_UNITS
from debiexport.signature import TensorSpec

OneLine = Callable[[BaseException], str]
LABELS = tuple(f"class {i}" for i in range(fake_coreml.CLASSES))
MODEL = f"{PACKAGE}/Data/com.apple.CoreML/model.mlmodel"
NAMES = ("noise", "china", "blobs")
SHORT = Plan(
    min_time_s=1e-6,
    min_count=400,
    max_time_s=2.0,
    p50_width=1e9,
    p99_width=1e9,
    warmup_window_s=1e-4,
    warmup_max_s=0.05,
    block_s=1e-4,
    block_min_runs=400,
)


def write_golden(path: Path, geometry: Geometry, bytes_in: bool = False) -> None:
    random = np.random.default_rng(0)
    if bytes_in:
        images = random.integers(0, 256, (len(NAMES), *geometry.image_size, 3), dtype=np.uint8)
        planes = images.transpose(0, 3, 1, 2) / 255
    else:
        images = planes = random.normal(size=(len(NAMES), 3, *geometry.image_size)).astype(np.float32)
    choosing = [a for a in geometry.routed if not a.routes_everywhere]
    meta = {
        "names": NAMES,
        "tie_limits": {a.name: 0.0 for a in choosing},
        "noise_floor": 1e-7,
        "tolerance": 1e-2,
        "precision": "fp16",
        GATE: 60.0,
    }
    arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta)), "images": images}
    arrays["logits"] = fake_coreml.logits(planes)
    for a in choosing:
        routes = np.arange(a.top_k, dtype=np.int32)
        arrays[f"routes/{a.name}"] = np.broadcast_to(routes, (len(NAMES), a.region_count, a.top_k))
        arrays[f"gaps/{a.name}"] = np.ones((len(NAMES), a.region_count), np.float32)
    np.savez(path, **arrays)


@pytest.fixture
def make(tiny_card: Card, tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle with the files of one of Core ML, whose model is nothing that could be run."""

    def bundle(bytes_in: bool = False, **changes: Any) -> Bundle:
        folder = tmp_path / "bundle"
        model = folder / MODEL
        model.parent.mkdir(parents=True)
        model.write_bytes(b"model")
        write_golden(folder / "golden.npz", Geometry.of(tiny_card, (64, 64)), bytes_in)
        shape = (1, 64, 64, 3) if bytes_in else (1, 3, 64, 64)
        one = describe_file(
            model,
            "model",
            MODEL,
            batch=1,
            precision="fp16",
            inputs=(TensorSpec("images", "uint8" if bytes_in else "float16", shape),),
            outputs=(TensorSpec("logits", "float16", (1, fake_coreml.CLASSES)),),
        )
        manifest = Manifest(
            target=COREML,
            card=tiny_card,
            checkpoint="random, seed 0",
            checkpoint_sha256=None,
            image_size=(64, 64),
            artifacts=(one, replace(one, batch=2, function="batch2"), describe_file(folder / "golden.npz", "golden")),
            lowering=find_lowering("cpu"),
            versions={},
            labels=LABELS,
            parity={"ok": True, GATE: 60.0},
            input="image" if bytes_in else "normalized",
        )
        return Bundle(folder, replace(manifest, **changes))

    return bundle


@pytest.fixture
def golden(make: Callable[..., Bundle]) -> Golden:
    bundle = make()
    return read_golden(bundle.path / "golden.npz", bundle.geometry)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., CoreMLLatencyResult]:
    monkeypatch.setattr(macos, "require_macos", lambda what: None)

    def measure(bundle: Bundle, behaviours: dict[str, str] | None = None, **options: Any) -> CoreMLLatencyResult:
        monkeypatch.setattr(coreml_process, "WORKER", fake_coreml.bootstrap(behaviours))
        options = {"units": ("CPU_AND_NE", "CPU_ONLY"), "plan": SHORT, "cache": tmp_path / "cache", **options}
        return measure_coreml(bundle, **options)

    return measure


# ------------------------------------------------------------------------------- what comes out


def test_a_measurement(make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]) -> None:
    lines: list[str] = []
    result = measured(make(), units=ALL_UNITS, progress=lines.append)
    assert [unit.unit for unit in result.timed] == list(ALL_UNITS) and not result.failures
    data = json.loads(json.dumps(result.to_dict(samples=True), allow_nan=False))
    assert (data["batch"], data["precision"], data["function"]) == (1, "fp16", None)
    assert data["compile_ms"] > 0
    for unit in data["units"]:
        assert unit["load_ms"] == 12.5 and unit["first_predict_ms"] > 0
        assert unit["parity"]["ok"] and unit["parity"]["wanted_psnr_db"] == unit["parity"]["min_psnr_db"] == 60
        assert unit["parity"]["flips_psnr_db"] is None
        assert list(unit["parity"]["images_psnr_db"]) == list(NAMES)
        assert unit["converged"] and unit["warmup"]["runs"] > 0
        assert unit["wall"]["p10_ms"]["value"] <= unit["wall"]["p50_ms"]["value"] <= unit["wall"]["p90_ms"]["value"]
        assert unit["native"]["p50_ms"]["value"] == 0.25
        assert len(unit["samples_ns"]) == len(unit["native_samples_ms"])
        assert unit["wall"]["n"] == sum(map(len, unit["samples_ns"])) >= 400
    plans = {unit["unit"]: unit["compute_plan"] for unit in data["units"]}
    assert plans["CPU_AND_NE"]["cost_share"] == {"NeuralEngine": 0.75, "GPU": 0, "CPU": 0.25}
    assert [o["type"] for o in plans["CPU_AND_NE"]["off_neural_engine"]] == ["topk"]
    assert plans["CPU_ONLY"]["operations"] == {"NeuralEngine": 0, "GPU": 0, "CPU": 2}
    assert len(data["ratios"]) == 3
    assert data["mac"].keys() == {"chip", "macos", "build"}
    assert data["power"]["before"].keys() == {"source", "low_power_mode", "thermal_state"}
    assert {"contention", "environment", "coremltools", "plan", "warnings"} <= data.keys()
    text = result.report()
    assert all(word in text for word in (*ALL_UNITS, "native p50", "cost on NeuralEngine", "compiled in", "machine: "))
    assert "off the Neural Engine: topk -> y on CPU" in text
    assert "CPU_ONLY: p10" in str(result) and "\n" not in str(result)
    assert any("CPU_AND_NE: parity holds" in line for line in lines) and any("by turns" in line for line in lines)
    assert "samples_ns" not in result.to_dict()["units"][0]


def test_what_is_compiled_is_kept(make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]) -> None:
    bundle = make()
    assert measured(bundle, units=["CPU_ONLY"]).compile_ms is not None
    again = measured(bundle, {"compiler": "dies"}, units=["CPU_ONLY"])
    assert again.compile_ms is None and again.timed
    assert "compiled before" in again.report()


def test_bytes_and_another_batch(make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]) -> None:
    bundle = make(bytes_in=True)
    assert measured(bundle, units=["ALL"]).timed
    refused = measured(bundle, units=["ALL"], batch=2)
    assert not refused.timed and "one RGB image" in refused.failures[0]


def test_a_batch_of_two(make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]) -> None:
    result = measured(make(), units=["ALL"], batch=2)
    (unit,) = result.timed
    assert (result.batch, result.function) == (2, "batch2")
    assert unit.plan is not None and unit.plan.function == "batch2"
    assert unit.parity is not None and unit.parity.outputs.batch == 2


@pytest.mark.parametrize("behaviour", ["classifier", "numbers"])
def test_a_classifier(
    make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult], behaviour: str
) -> None:
    result = measured(make(), {"ALL": behaviour}, units=["ALL"])
    (unit,) = result.timed
    assert unit.parity is not None and unit.parity.outputs.top1_agreement == 1


def test_native_times_and_plans_may_be_missing(
    make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]
) -> None:
    result = measured(make(), {"ALL": "untold", "plan": "refuses"}, units=["ALL"])
    (unit,) = result.timed
    assert unit.native is None and unit.plan is None
    assert "macOS >= 14.4" in str(unit.plan_failure)
    assert "no compute plan" in result.report()
    assert result.to_dict(samples=True)["units"][0]["native_samples_ms"] is None


# ------------------------------------------------------------------------------- units that fail


@pytest.mark.parametrize(
    ("behaviour", "words", "judged"),
    [
        ("dies", "died while predicting: signal 9 (Kill", False),
        ("dies later", "died while timing: signal 9 (Kill", True),
        ("refuses", "is not loaded by Core ML on CPU_AND_NE", False),
        ("raises", "RuntimeError: Unable to compute the prediction", False),
        ("wrong", "parity is lost: PSNR", True),
        ("not finite", "outputs that are not finite", True),
        ("misshapen", "gives logits float32 (6,), expected is (1, 6)", False),
        ("features", "gives feature1, and no logits", False),
    ],
)
def test_a_unit_that_fails_is_reported_and_not_timed(
    make: Callable[..., Bundle],
    measured: Callable[..., CoreMLLatencyResult],
    behaviour: str,
    words: str,
    judged: bool,
) -> None:
    result = measured(make(), {"CPU_AND_NE": behaviour})
    failed, right = result.units
    assert words in str(failed.failure) and "\n" not in str(failed.failure)
    assert failed.wall is None and failed.measurement is None and (failed.parity is not None) == judged
    assert right.failure is None and right.wall is not None
    assert result.timed == (right,) and not result.ratios
    assert f"NOT TIMED: CPU_AND_NE: {failed.failure}" in result.report()
    data = json.loads(json.dumps(result.to_dict(samples=True), allow_nan=False))
    assert data["failures"] == result.failures
    assert (failed.load_ms is None) == (behaviour == "refuses")
    assert (failed.plan is None) == behaviour.startswith("dies")


def test_a_unit_that_hangs(make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]) -> None:
    result = measured(make(), {"CPU_AND_NE": "hangs"}, timeout_s=5)
    assert "it was ended while predicting, as it had not answered for 5 s" in result.failures[0]
    assert [unit.unit for unit in result.timed] == ["CPU_ONLY"]


def test_every_unit_may_fail(make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]) -> None:
    result = measured(make(), {"CPU_AND_NE": "dies", "CPU_ONLY": "wrong"})
    assert not result.timed and len(result.failures) == 2
    assert "NOT TIMED" in result.report()


def test_a_lower_psnr_may_do(make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]) -> None:
    result = measured(make(), {"ALL": "wrong"}, units=["ALL"], min_psnr_db=-100)
    assert result.timed and result.units[0].to_dict()["parity"]["min_psnr_db"] == -100


@pytest.mark.parametrize(
    ("compiler", "words"), [("refuses", "bad weights"), ("dies", "died while compiling: signal 11 (Segm")]
)
def test_a_package_that_is_not_compiled(
    make: Callable[..., Bundle],
    measured: Callable[..., CoreMLLatencyResult],
    one_line: OneLine,
    compiler: str,
    words: str,
) -> None:
    with pytest.raises(UnitFailed) as caught:
        measured(make(), {"compiler": compiler})
    assert words in one_line(caught.value)


def test_what_slows_the_machine_is_said(
    make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(macos, "describe_power", lambda: Power("Battery Power", "on", UNKNOWN))
    result = measured(make(parity={"ok": False, GATE: 60.0}), units=["ALL"])
    assert result.warnings[0].startswith("the bundle lost parity when it was exported")
    assert {"the machine runs on Battery Power", "low power mode is on"} < set(result.warnings)
    assert "WARNING: low power mode is on" in result.report()


# ------------------------------------------------------------------------------- refusals


def test_elsewhere_it_is_refused(
    make: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    monkeypatch.setattr(macos, "_system", lambda: "linux")
    with pytest.raises(MissingDependencyError) as caught:
        measure_coreml(make())
    assert caught.value.exit_code == 5
    assert "measuring a Core ML bundle needs macOS" in one_line(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": ["NPU"]}, "the compute unit is 'NPU': allowed are ALL, CPU_AND_NE, CPU_AND_GPU, CPU_ONLY"),
        ({"units": []}, "no compute unit"),
        ({"batch": 3}, "takes a batch of 1, 2"),
        ({"min_time": 0.0}, "--min-time is 0"),
        ({"max_time": float("nan")}, "--max-time is nan"),
        ({"min_time": 2.0, "max_time": 1.0}, "give at least --min-time, 2"),
        ({"min_psnr_db": float("inf")}, "the PSNR to reach is inf"),
    ],
)
def test_options_that_cannot_be(
    make: Callable[..., Bundle],
    measured: Callable[..., CoreMLLatencyResult],
    one_line: OneLine,
    options: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(UsageError) as caught:
        measured(make(), **options)
    assert words in one_line(caught.value)


def test_times_given_replace_the_plans(
    make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]
) -> None:
    timing = measured(make(), units=["ALL"], min_time=0.001).timing
    assert (timing.min_time_s, timing.max_time_s, timing.min_count) == (0.001, 0.02, SHORT.min_count)


def test_other_bundles_are_refused(
    make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult], tmp_path: Path, one_line: OneLine
) -> None:
    bundle = make(target=ONNX)
    with pytest.raises(UsageError) as caught:
        measured(bundle)
    assert "is a bundle of the target onnx: give one of coreml" in one_line(caught.value)
    with pytest.raises(UsageError, match="no bundle at"):
        measure_coreml(tmp_path / "nowhere")
    shutil.rmtree(bundle.path / PACKAGE)
    with pytest.raises(BundleError, match="holds no Core ML model"):
        measured(Bundle(bundle.path, replace(bundle.manifest, target=COREML)))


def test_the_psnr_to_reach(make: Callable[..., Bundle], one_line: OneLine) -> None:
    manifest = make().manifest
    assert psnr_gate(manifest, None) == PsnrGate(60)
    assert psnr_gate(manifest, 30) == PsnrGate(30)
    for flips in (None, True, "50", float("inf")):
        assert psnr_gate(replace(manifest, parity={GATE: 60.0, FLIPS: flips}), None) == PsnrGate(60)
    for parity in ({}, {GATE: None}, {GATE: True}, {GATE: "60"}):
        with pytest.raises(UsageError) as caught:
            psnr_gate(replace(manifest, parity=parity), None)
        assert f"the manifest has no {GATE}" in one_line(caught.value)


@pytest.mark.parametrize(
    ("flips", "wanted", "text"),
    [
        (None, 60, "60 dB"),
        (70.0, 60, "60 dB"),
        (50.0, 44, "44 dB (near-ties, 50.0 dB at the export, less 6; 60 dB with the same routes)"),
    ],
)
def test_near_ties_lower_what_has_to_be_reached(
    make: Callable[..., Bundle], flips: float | None, wanted: float, text: str
) -> None:
    manifest = make(parity={"ok": True, GATE: 60.0, FLIPS: flips}).manifest
    gate = psnr_gate(manifest, None)
    assert gate.wanted_db == wanted and str(gate) == text
    assert gate.to_dict() == {"wanted_psnr_db": wanted, "min_psnr_db": 60, "flips_psnr_db": flips}
    assert psnr_gate(manifest, 55).wanted_db == 55, "what is asked for counts alone"


def test_a_unit_is_held_to_what_near_ties_leave(
    make: Callable[..., Bundle], measured: Callable[..., CoreMLLatencyResult]
) -> None:
    bundle = make(parity={"ok": True, GATE: 60.0, FLIPS: -50.0})
    (unit,) = measured(bundle, {"ALL": "wrong"}, units=["ALL"]).units
    assert unit.parity is not None and unit.parity.gate.wanted_db == -56
    assert unit.failure is None and "wanted are -56 dB (near-ties" in str(unit.parity)


# ------------------------------------------------------------------------------- parity


@dataclass(frozen=True)
class Model:
    """A runtime that gives what it is told."""

    batch: int | None
    results: Callable[[Array], dict[str, Array]]

    def run(self, inputs: Any, taps: Sequence[str] = ()) -> dict[str, Array]:
        return self.results(inputs["images"])


def test_each_image_is_judged(golden: Golden, tiny_card: Card) -> None:
    geometry = Geometry.of(tiny_card, (64, 64))

    def results(images: Array) -> dict[str, Array]:
        noise = 1e-3 * (images[:, 0, 0, 0] == golden.images[1, 0, 0, 0])  # the second image is a little off
        return {"logits": (fake_coreml.logits(images) + noise[:, None]).astype(np.float16)}

    parity = judge_answers(Model(2, results), golden, geometry, PsnrGate(90.0), who="Core ML")
    assert parity.worst == "china"
    assert parity.outputs.images == 4  # the last batch wraps round
    assert "at image 'china' is below 90 dB" in str(parity.failure) == str(parity)
    assert judge_answers(Model(1, results), golden, geometry, PsnrGate(10.0), who="Core ML").failure is None


def test_probabilities_are_compared_with_those_of_the_stored_logits(golden: Golden, tiny_card: Card) -> None:
    def results(images: Array) -> dict[str, Array]:
        raised = np.exp(fake_coreml.logits(images))
        return {"probabilities": raised / raised.sum(1, keepdims=True), "classLabel": np.array(["class 1"])}

    geometry = Geometry.of(tiny_card, (64, 64))
    parity = judge_answers(Model(1, results), golden, geometry, PsnrGate(100.0), who="Core ML")
    assert parity.failure is None and parity.outputs.top5_agreement == 1
    with pytest.raises(BundleError, match=r"gives probabilities float64 \(6,\), expected is \(1, 6\)"):
        judge_answers(
            Model(1, lambda images: {"probabilities": np.ones(6)}), golden, geometry, PsnrGate(100.0), who="Core ML"
        )


# ------------------------------------------------------------------------------- rounds


@dataclass
class Canned:
    """A process that takes as long as it is told to."""

    name: str
    run_ns: int
    log: list[str]
    asked: list[int] = field(default_factory=list)
    fails_at: int | None = None

    def time(self, runs: int) -> Times:
        self.log.append(self.name)
        self.asked.append(runs)
        if len(self.asked) == self.fails_at:
            raise UnitFailed(f"{self.name} failed")
        return Times(np.full(runs, self.run_ns), np.arange(runs) * 1000)


def test_rounds_go_by_turns_and_the_first_runs_are_dropped() -> None:
    log: list[str] = []
    slow, fast = Canned("slow", 10_000_000, log), Canned("fast", 1_000_000, log)
    plan = Plan(min_count=30, min_time_s=0.02, block_s=0.02, p99_width=float("inf"))
    found = time_by_turns({"slow": slow, "fast": fast}, plan)
    assert slow.asked == [5, 10, 10, 13, 13, 13] and fast.asked == [5, 100, 100, 23, 23, 23]
    assert log[6:] == ["slow", "fast"] * 3
    timed = found["slow"]
    assert isinstance(timed, Timed)
    assert [len(block) for block in timed.measurement.blocks] == [10] * 3
    assert timed.native_blocks_ms is not None
    assert timed.native_blocks_ms[0].tolist() == [i / 1000 for i in range(3, 13)]
    assert timed.measurement.warmup.steady and timed.measurement.warmup.runs == 25


def test_a_process_that_fails_is_left_out() -> None:
    log: list[str] = []
    first, second, third = (Canned(name, 1_000_000, log) for name in "abc")
    first.fails_at, second.fails_at = 1, 5  # in the warm-up, and in the second block
    plan = Plan(min_count=30, min_time_s=0.0, block_s=0.001, p99_width=float("inf"))
    found = time_by_turns({"a": first, "b": second, "c": third}, plan)
    assert isinstance(found["a"], UnitFailed) and isinstance(found["b"], UnitFailed)
    assert isinstance(found["c"], Timed)
    assert time_by_turns({}, plan) == {}


def test_a_measurement_that_does_not_converge_ends() -> None:
    plan = Plan(min_count=10**9, min_time_s=0.0, block_s=1e-4, max_time_s=0.01)
    found = time_by_turns({"a": Canned("a", 1_000_000, [])}, plan)["a"]
    assert isinstance(found, Timed)
    assert not found.measurement.converged and "of 1000000000 runs" in found.measurement.missing[0]


def test_what_is_wanting() -> None:
    plan = Plan(min_count=4, min_time_s=1.0)
    steady = np.full(1000, 2_000_000)
    assert wanting([steady], plan) == ()
    assert wanting([steady[:3]], plan)[:2] == ("3 of 4 runs", "0.006 of 1 s")
    assert "the interval of p50 is open, wanted are 4%" in wanting([steady[:3]], plan)
    spread = np.arange(1, 1001) * 10_000_000
    assert any("p50" in words and "% wide" in words for words in wanting([spread], plan))
