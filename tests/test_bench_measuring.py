"""`measure_latency` and `debiexport bench`: the result's shape, and every way in which it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import debiexport
from debiexport.atomic import staged_file
from debiexport.bench import measuring, memory
from debiexport.bench.memory import Memory, own_peak_bytes, peak_memory
from debiexport.bench.runner import Measurement, Plan, Warmup
from debiexport.bench.subjects import BUNDLE, Spec, unique_names
from debiexport.bundle import MODEL, open_bundle, sha256_of
from debiexport.cli.main import run
from debiexport.errors import MissingDependencyError, OutputError, UsageError
from debiexport.manifest import MANIFEST
from debiexport.runtimes.ort import OrtRuntime

SHORT = ["--threads", "1", "--min-time", "0.05", "--max-time", "0.1"]


def fake_measure(subjects: Sequence[Any], plan: Plan, **options: Any) -> list[Measurement]:
    """Subject i takes i + 1 ms; each is run once, so that what cannot run is found out."""
    for subject in subjects:
        subject.run(subject.pool[-1])
    warmup = Warmup(15, 0.1, True, 1.0)
    return [
        Measurement(warmup, tuple(np.full(20, (i + 1) * 10**6) for _ in range(20)), ()) for i in range(len(subjects))
    ]


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is spent on timing, nor on processes that measure memory."""
    monkeypatch.setattr(measuring, "measure", fake_measure)
    monkeypatch.setattr(measuring, "peak_memory", lambda spec, example: Memory(2_000_000, 1_000_000))


def refused(arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments, "-q"]) == code
    plain = capsys.readouterr()
    assert plain.out == ""
    (line,) = [line for line in plain.err.splitlines() if line.startswith("error:")]
    assert words in line
    assert "Traceback" not in plain.err
    assert run(["bench", *arguments, "--json"]) == code
    data = json.loads(capsys.readouterr().out)
    assert (data["exit_code"], f"error: {data['error']}") == (code, line)


# ------------------------------------------------------------------------------- what comes out


@pytest.mark.usefixtures("instant")
def test_against_plain_and_eager(dynamic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    arguments = ["bench", str(dynamic_bundle), "--against", "plain", "--against", "eager", "--batch", "2", "--profile"]
    assert run([*arguments, "--json", "--json-file", str(file), "--threads", "1"]) == 0
    (text,) = capsys.readouterr().out.splitlines()
    data = json.loads(text)
    bundle, plain, eager = data["subjects"]
    assert [s["kind"] for s in data["subjects"]] == ["bundle", "plain", "eager"]
    assert bundle["model_sha256"] == sha256_of(dynamic_bundle / "model.onnx")
    assert eager["model_sha256"] is None
    assert bundle["input"] == plain["input"] == {"shape": [2, 3, 64, 64], "dtype": "float32"}
    assert bundle["options"]["intra_op_num_threads"] == 1
    assert bundle["numerics"]["method"] == "reference"
    assert plain["numerics"]["relative_error"] <= plain["numerics"]["tolerance"]
    assert plain["numerics"]["top1_agreement"] == 1
    assert bundle["latency"]["p50_ms"] == {"value": 1, "low": 1, "high": 1}
    assert bundle["latency"]["p99_9_ms"] is None
    assert bundle["throughput"] == {"images_per_s": 2000, "concurrency": 1}
    assert bundle["load_ms"] > 0 and bundle["first_inference_ms"] > 0
    assert bundle["profile"]["places"] and plain["profile"]["operations"]
    assert eager["profile"] is None
    assert [(r["numerator"], r["p50_ratio"]["value"]) for r in data["ratios"]] == [("plain", 2), ("eager", 3)]
    assert {"verdict", "pressure", "steal", "load_before", "switches_per_s"} <= set(data["contention"])
    assert {"cpu", "instruction_sets", "governor", "hypervisor", "packages"} <= set(data["environment"])
    assert data["command"].startswith(f"debiexport bench {dynamic_bundle} --against plain --against eager --batch 2")
    assert "samples_ns" not in bundle

    stored = json.loads(file.read_text())
    assert [len(block) for block in stored["subjects"][0].pop("samples_ns")] == [20] * 20
    for subject in stored["subjects"][1:]:
        del subject["samples_ns"]
    assert stored == data


@pytest.mark.usefixtures("instant")
def test_two_bundles_for_people(dynamic_bundle: Path, static_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(static_bundle), str(dynamic_bundle), str(dynamic_bundle), "-q"]) == 0
    out = capsys.readouterr().out
    assert f"{static_bundle} takes 0.50 [0.50, 0.50] times as long as {dynamic_bundle} (p50" in out
    assert f"as {dynamic_bundle} (2) (p50" in out
    assert "3x3x64x64 float32" in out
    assert "█" in out
    assert "relative error" in out and "top-1 agreement" in out
    assert "p50, ms " in out and "min .. max, ms" in out
    assert "n < 10,000: a p99.9 takes at least 10,000 runs" in out
    assert "; note:" not in out and "?" not in out


@pytest.mark.usefixtures("instant")
def test_bundles_that_are_not_one_network(dynamic_bundle: Path, seg_bundle: Path) -> None:
    (ratio,) = debiexport.measure_latency([dynamic_bundle, seg_bundle], batch=2, threads=1).ratios
    note = "these are different networks: tiny_debi at 64x64, and tiny_seg at 64x96"
    assert ratio.note == ratio.to_dict()["note"] == note
    assert str(ratio).endswith(f"blocks); note: {note}")


def test_notes_on_what_differs(dynamic_bundle: Path) -> None:
    manifest = open_bundle(dynamic_bundle).manifest
    assert measuring.difference_note(manifest, manifest) is None
    larger = replace(manifest, image_size=(96, 64))
    note = "these are different image sizes: tiny_debi at 64x64, and tiny_debi at 96x64"
    assert measuring.difference_note(manifest, larger) == note
    other = replace(manifest, card=manifest.card.with_options(regions=3))
    note = "these are different networks, both tiny_debi at 64x64 with options or cards that differ"
    assert measuring.difference_note(manifest, other) == note


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize(("fixture", "opponent"), [("uint8_bundle", "eager"), ("seg_bundle", "plain")])
def test_other_inputs_and_outputs(fixture: str, opponent: str, request: pytest.FixtureRequest) -> None:
    """A bundle that takes bytes, its opponent what they become; and a backbone, which has no classes."""
    bundle: Path = request.getfixturevalue(fixture)
    result = debiexport.measure_latency([bundle], against=[opponent], threads=1)
    ours, theirs = result.subjects
    assert theirs.input_dtype == "float32"
    if fixture == "uint8_bundle":
        assert ours.input_dtype == "uint8"
    else:
        assert ours.numerics.top1_agreement is None
    assert "top-1 agreement" in result.report()


@pytest.mark.usefixtures("instant")
def test_session_options_are_the_bundles_own(
    dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle is timed, profiled and weighed with its options, its opponent with ONNX Runtime's defaults."""
    data = json.loads((dynamic_bundle / MANIFEST).read_text())
    data["session_options"] = {"memory_pattern": False, "entries": {"session.intra_op.allow_spinning": "0"}}
    (dynamic_bundle / MANIFEST).write_text(json.dumps(data))
    weighed: list[Spec] = []
    monkeypatch.setattr(measuring, "peak_memory", lambda spec, example: weighed.append(spec))
    opened: list[tuple[str, bool]] = []
    real = onnxruntime.InferenceSession

    def session(model: Any, options: Any, providers: Any) -> Any:
        opened.append(("profile" if options.enable_profiling else "run", options.enable_mem_pattern))
        return real(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert run(["bench", str(dynamic_bundle), "--against", "plain", "--profile", "--threads", "1", "--json", "-q"]) == 0
    bundle, plain = json.loads(capsys.readouterr().out)["subjects"]
    assert bundle["options"]["entries"] == {"session.intra_op.allow_spinning": "0"}
    assert (bundle["options"]["memory_pattern"], plain["options"]["memory_pattern"]) == (False, True)
    assert plain["options"]["entries"] == {}
    assert [(kind, pattern) for kind, pattern in opened if kind == "profile"] == [("profile", False), ("profile", True)]
    assert [Spec(**json.loads(json.dumps(spec.to_dict()))) for spec in weighed] == weighed
    assert [spec.session.get("memory_pattern", True) for spec in weighed] == [False, True]


def test_a_real_measurement(dynamic_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Too short to converge, and it says so."""
    assert run(["bench", str(dynamic_bundle), *SHORT, "--json", "-q"]) == 0
    data = json.loads(capsys.readouterr().out)
    (subject,) = data["subjects"]
    assert subject["latency"]["n"] >= 10
    assert subject["memory"]["peak_bytes"] > subject["memory"]["baseline_bytes"] > 0
    assert subject["converged"] is (not subject["not_converged_because"])
    assert data["ratios"] == []


@pytest.mark.usefixtures("instant")
def test_from_python(dynamic_bundle: Path) -> None:
    result = debiexport.measure_latency([dynamic_bundle], plan=Plan(min_count=5))
    assert isinstance(result, debiexport.LatencyResult)
    assert result.plan.min_count == 5
    assert str(result).startswith(f"{dynamic_bundle} p50 1 [1, 1] ms")
    with pytest.raises(UsageError, match="no bundle"):
        debiexport.measure_latency([])
    with pytest.raises(UsageError, match="give a list of folders"):
        debiexport.measure_latency(str(dynamic_bundle))
    with pytest.raises(UsageError, match="the bundle is None"):
        debiexport.measure_latency([None])  # type: ignore[list-item]


def test_warnings_are_said(dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = tuple(np.array([10**6, 5 * 10**6] * 5) for _ in range(3))
    unsteady = Measurement(Warmup(15, 10.0, False, 1.0), blocks, ("30 of 400 runs",))
    monkeypatch.setattr(measuring, "measure", lambda subjects, plan, **options: [unsteady])
    monkeypatch.setattr(measuring, "peak_memory", lambda spec, example: None)
    result = debiexport.measure_latency([dynamic_bundle])
    text = result.report()
    for words in ("not steady after a warm-up of 15 runs", "not converged: 30 of 400 runs", "unstable: the coef"):
        assert f"WARNING: {dynamic_bundle}: {words}" in text
    assert "peak memory      unknown" in text
    assert "?: too few runs for that end of the interval" in text


def test_names_stay_unique() -> None:
    assert unique_names(["a", "b", "a", "a (2)", "a"]) == ["a", "b", "a (2)", "a (2) (2)", "a (3)"]


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--batch 0", 2, "--batch is 0"),
        ("--batch 5000", 2, "--batch is 5000"),
        ("--batch x", 2, "--batch is 'x': give a whole number"),
        ("--batch 2", 2, "takes a batch of 3"),
        ("--threads 0", 2, "--threads is 0"),
        ("--threads 9999", 2, "--threads is 9999"),
        ("--min-time 0", 2, "--min-time is 0"),
        ("--min-time nan", 2, "--min-time is nan"),
        ("--min-time -1", 2, "--min-time is -1"),
        ("--min-time x", 2, "--min-time is 'x': give seconds"),
        ("--max-time 1s", 2, "--max-time is '1s': give seconds"),
        ("--json-file=", 2, "--json-file is empty"),
        ("--min-time 2 --max-time 1", 2, "--max-time is 1"),
        ("--provider tpu", 2, "--provider is 'tpu': give cpu or cuda"),
        ("--against magic", 2, "'magic'"),
        ("--checkpoint nowhere.pth", 2, "nowhere.pth"),
        ("--json-file nowhere/out.json", 2, "--json-file nowhere/out.json cannot be written"),
        ("--json-file .", 2, "it is a folder"),
        ("--json-file /proc/debiexport.json", 2, "--json-file /proc/debiexport.json cannot be written"),
        ("nowhere", 2, "no bundle at nowhere"),
    ],
)
def test_bad_options(
    static_bundle: Path,
    options: str,
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*a: Any, **k: Any) -> None:
        raise AssertionError("it was measured")

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(measuring, "measure", never)
    refused([str(static_bundle), *options.split()], code, words, capsys)
    assert list(Path().iterdir()) == []


def test_lost_parity_is_not_timed(
    static_bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "measure", None)
    path = static_bundle / "model.onnx"
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if list(t.dims) == [6])
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, path)
    data = json.loads((static_bundle / MANIFEST).read_text())
    entry = next(a for a in data["artifacts"] if a["role"] == MODEL)
    entry |= {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    (static_bundle / MANIFEST).write_text(json.dumps(data))
    kept = tmp_path / "kept.json"
    kept.write_text("earlier")
    arguments = ["bench", str(static_bundle), "--json-file", str(kept), "-q"]
    assert run(arguments) == 3
    said = capsys.readouterr()
    assert "  routes: " in said.out and "failures (1):" in said.out
    (line,) = said.err.splitlines()
    assert "parity is lost" in line and line.endswith("--bisect")
    assert run([*arguments, "--json"]) == 3
    assert len(json.loads(capsys.readouterr().out)["parity"]["failures"]) == 1
    assert kept.read_text() == "earlier"
    assert not list(tmp_path.glob(".debiexport*"))


def test_a_fifo_is_refused_before_the_work(
    static_bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "open_bundle", None)
    os.mkfifo(tmp_path / "fifo")
    refused([str(static_bundle), "--json-file", str(tmp_path / "fifo")], 2, "it is no regular file", capsys)
    assert (tmp_path / "fifo").is_fifo()


def test_a_file_that_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *a: Any, **k: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        with staged_file(tmp_path / "out.json", "--json-file") as staged:
            monkeypatch.setattr(Path, "write_text", full)
            staged.commit("{}")

    with pytest.raises(OutputError, match=r"--json-file .*No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    path.write_text("kept")
    monkeypatch.setattr("os.access", lambda *a, **k: False)  # root may write whatever its mode
    with pytest.raises(OutputError, match="Permission denied"), staged_file(path, "--json-file"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert path.read_text() == "kept"


@pytest.mark.parametrize("opponent", ["plain", "eager"])
def test_weights_that_are_not_at_hand(dynamic_bundle: Path, opponent: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads((dynamic_bundle / MANIFEST).read_text())
    data["checkpoint"] = {"description": "mine.pth", "sha256": "ab" * 32}
    (dynamic_bundle / MANIFEST).write_text(json.dumps(data))
    words = f"--against {opponent} needs the weights of mine.pth, which are not in the bundle: give --checkpoint"
    refused([str(dynamic_bundle), "--against", opponent], 2, words, capsys)


def test_opponents_of_different_networks(
    dynamic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(dynamic_bundle, tmp_path / "other")
    data = json.loads((other / MANIFEST).read_text())
    data["checkpoint"] = {"description": "mine.pth", "sha256": "ab" * 32}
    (other / MANIFEST).write_text(json.dumps(data))
    refused([str(dynamic_bundle), str(other), "--against", "eager"], 2, "different networks", capsys)


def test_batches_that_differ(static_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(static_bundle, tmp_path / "other")
    text = (other / MANIFEST).read_text()
    data = json.loads(text)
    next(a for a in data["artifacts"] if a["role"] == MODEL)["batch"] = 5
    (other / MANIFEST).write_text(json.dumps(data))
    refused([str(static_bundle), str(other)], 2, "compare bundles of one batch", capsys)


@pytest.mark.parametrize(("opponent", "package"), [("eager", "torch"), ("openvino", "torch"), ("openvino", "openvino")])
def test_missing_packages(
    dynamic_bundle: Path,
    opponent: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("debiexport.extras.find_spec", lambda name: None if name == package else object())
    refused([str(dynamic_bundle), "--against", opponent], 5, f"needs {package}", capsys)


# ------------------------------------------------------------------------------- the provider


def test_cuda_that_is_not_there(dynamic_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    refused([str(dynamic_bundle), "--provider", "cuda"], 5, "no CUDAExecutionProvider", capsys)


def test_cuda_that_falls_back_silently(dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime does where the driver or a library is missing."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    asked: list[Any] = []

    def session(model: Any, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        return SimpleNamespace(get_providers=lambda: both[1:])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(MissingDependencyError, match="fell back to CPUExecutionProvider") as caught:
        OrtRuntime(dynamic_bundle / "model.onnx", provider="cuda")
    assert "\n" not in str(caught.value)
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0"})]


def test_opponents_on_another_device(
    dynamic_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    refused([str(dynamic_bundle), "--provider", "cuda", "--against", "eager"], 2, "compare on one device", capsys)


# ------------------------------------------------------------------------------- memory


def test_memory_of_a_model_that_is_not_there(tmp_path: Path) -> None:
    spec = Spec("x", BUNDLE, str(tmp_path / "nothing.onnx"), None, 1, 1)
    assert peak_memory(spec, np.zeros((1, 3, 64, 64), np.float32)) is None


def test_the_child_reports_its_own_peak(dynamic_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = open_bundle(dynamic_bundle)
    spec = Spec("x", BUNDLE, str(bundle.file(MODEL)), None, 2, 1)
    given = {"spec": spec.to_dict(), "shape": [2, 3, 64, 64], "dtype": "float32"}
    assert memory.main([json.dumps(given)]) == 0
    data = json.loads(capsys.readouterr().out)
    if sys.platform == "linux":
        assert data["peak_bytes"] >= data["baseline_bytes"] > 10**6


def test_peaks_are_read_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(sys, "platform", "linux")
    assert own_peak_bytes(status) is None
    status.write_text("VmPeak: 9 kB\nVmHWM:\t 2048 kB\n")
    assert own_peak_bytes(status) == 2048 * 1024
