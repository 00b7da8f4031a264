"""A Core ML model in a process of its own, with real processes and a model that stands in for Core ML's."""

from __future__ import annotations

import inspect
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_coreml
import numpy as np
import pytest

from debiexport.errors import BundleError
from debiexport.runtimes import coreml_process, coreml_worker, macos
from debiexport.runtimes.coreml_process import CoreMLProcess, Prediction, ProcessRuntime, Table, UnitFailed

OneLine = Callable[[BaseException], str]
IMAGES = np.linspace(0, 1, 2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    path = tmp_path / "model.mlmodelc"
    path.mkdir()
    return path


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CoreMLProcess]:
    def with_model(behaviour: str = "right", timeout_s: float = 60, **behaviours: str) -> CoreMLProcess:
        monkeypatch.setattr(coreml_process, "WORKER", fake_coreml.bootstrap({"ALL": behaviour, **behaviours}))
        return CoreMLProcess("ALL", timeout_s)

    return with_model


def failure(of: Callable[[], Any], one_line: OneLine) -> str:
    with pytest.raises(UnitFailed) as caught:
        of()
    assert caught.value.exit_code == 4
    return one_line(caught.value)


def test_the_fakes_take_what_the_calls_take(monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = {name: inspect.signature(getattr(macos, name)) for name in fake_coreml.FAKED}
    for name in fake_coreml.FAKED:
        monkeypatch.setattr(macos, name, getattr(macos, name))  # put back afterwards
    fake_coreml.replace({})
    for name, signature in signatures.items():
        fake = inspect.signature(getattr(macos, name))
        assert [*fake.parameters.items()] == [*signature.parameters.items()], name


def test_load_predict_time_and_plan(start: Callable[..., CoreMLProcess], compiled: Path) -> None:
    with start() as process:
        assert process.load(compiled) == 12.5
        result = process.predict({"images": IMAGES})
        np.testing.assert_array_equal(result.arrays["logits"], fake_coreml.logits(IMAGES))
        assert result.wall_ms > 0 and result.native_ms == 0.25 and not result.tables
        half = IMAGES.astype(np.float16)
        np.testing.assert_array_equal(
            process.predict({"images": half}).arrays["logits"], fake_coreml.logits(half.astype(np.float32))
        )
        process.keep([{"images": IMAGES}, {"images": IMAGES[::-1]}])
        times = process.time(5)
        assert times.wall_ns.shape == (5,) and (times.wall_ns > 0).all()
        assert times.native_ns is not None and times.native_ns.tolist() == [fake_coreml.NATIVE_NS] * 5
        plan = process.plan(compiled, "batch2")
        assert (plan.unit, plan.function, plan.counts["NeuralEngine"]) == ("ALL", "batch2", 1)
        assert plan.operations[1].type == "topk"
    process.close()  # again


def test_native_times_may_be_unknown(start: Callable[..., CoreMLProcess], compiled: Path) -> None:
    with start("untold") as process:
        process.load(compiled)
        assert process.predict({"images": IMAGES}).native_ms is None
        process.keep([{"images": IMAGES}])
        assert process.time(2).native_ns is None


def test_files_do_not_pile_up(start: Callable[..., CoreMLProcess], compiled: Path) -> None:
    with start() as process:
        process.load(compiled)
        for _ in range(3):
            process.predict({"images": IMAGES})
        process.keep([{"images": IMAGES}])
        folder = process._folder
        assert [path.name for path in folder.iterdir()] == ["log"]
        assert fake_coreml.NOISE in (folder / "log").read_text()
    assert not folder.exists()


def test_compile(start: Callable[..., CoreMLProcess], tmp_path: Path) -> None:
    (tmp_path / "model.mlpackage" / "Data").mkdir(parents=True)
    (tmp_path / "model.mlpackage" / "Data" / "model.mlmodel").write_bytes(b"model")
    with start() as process:
        path, milliseconds = process.compile(tmp_path / "model.mlpackage", tmp_path / "cache")
    assert path == macos.compiled_path(tmp_path / "model.mlpackage", tmp_path / "cache")
    assert path.is_dir() and milliseconds > 0


def test_an_image_is_given_as_an_image(start: Callable[..., CoreMLProcess], compiled: Path, one_line: OneLine) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    with start() as process:
        process.load(compiled)
        found = process.predict({"images": pixels}).arrays["logits"]
        np.testing.assert_allclose(found, fake_coreml.logits(pixels.transpose(0, 3, 1, 2) / 255), rtol=1e-6)
        text = failure(lambda: process.predict({"images": np.repeat(pixels, 2, 0)}), one_line)
        assert "(2, 4, 4, 3)" in text and "one RGB image" in text
        assert process.predict({"images": pixels}).wall_ms > 0  # it goes on


# ------------------------------------------------------------------------------- processes that fail


def test_a_process_that_dies_of_a_signal(
    start: Callable[..., CoreMLProcess], compiled: Path, one_line: OneLine
) -> None:
    with start("dies") as process:
        process.load(compiled)
        text = failure(lambda: process.predict({"images": IMAGES}), one_line)
        assert "Core ML on ALL failed: its process died while predicting: signal 9 (Kill" in text
        assert text.endswith("choose another compute unit")
        assert failure(lambda: process.time(1), one_line) == text


def test_a_process_that_exits(start: Callable[..., CoreMLProcess], compiled: Path, one_line: OneLine) -> None:
    with start("exits") as process:
        process.load(compiled)
        text = failure(lambda: process.predict({"images": IMAGES}), one_line)
        assert "exit status 3, its last words 'the compiler gave up'" in text


def test_a_process_that_hangs(start: Callable[..., CoreMLProcess], compiled: Path, one_line: OneLine) -> None:
    with start("hangs", timeout_s=20) as process:
        process.load(compiled)
        process._timeout_s = 0.2
        text = failure(lambda: process.predict({"images": IMAGES}), one_line)
        assert "it was ended while predicting, as it had not answered for 0.2 s" in text
    assert process._process.returncode == -signal.SIGKILL


def test_a_process_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_line: OneLine, compiled: Path
) -> None:
    monkeypatch.setattr(coreml_process, "WORKER", (sys.executable, "-c", "raise SystemExit('no such module')"))
    with CoreMLProcess("CPU_ONLY", 20) as process:
        text = failure(lambda: process.load(compiled), one_line)
        assert "died while loading: exit status 1, its last words 'no such module'" in text
    monkeypatch.setattr(coreml_process, "WORKER", (str(tmp_path / "nothing"),))
    with pytest.raises(FileNotFoundError):
        CoreMLProcess("CPU_ONLY", 20)


def test_a_process_that_answers_something_else(
    start: Callable[..., CoreMLProcess], compiled: Path, one_line: OneLine
) -> None:
    with start(worker="talks") as process:
        text = failure(lambda: process.load(compiled), one_line)
        assert "answered 'no JSON\\n' while loading" in text


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("refuses", "failed while loading: model.mlmodelc is not loaded by Core ML on ALL: no such device"),
        ("raises", "failed while predicting: RuntimeError: Unable to compute the prediction"),
        ("object", "failed while predicting: the output logits is a set, and no array"),
    ],
)
def test_what_core_ml_refuses(
    start: Callable[..., CoreMLProcess], compiled: Path, one_line: OneLine, behaviour: str, words: str
) -> None:
    def run(process: CoreMLProcess) -> None:
        process.load(compiled)
        process.predict({"images": IMAGES})

    with start(behaviour) as process:
        assert words in failure(lambda: run(process), one_line)


def test_nothing_can_be_timed_before_it_is_there(
    start: Callable[..., CoreMLProcess], compiled: Path, one_line: OneLine
) -> None:
    with start() as process:
        assert "no model is loaded" in failure(lambda: process.time(1), one_line)
        process.load(compiled)
        assert "no inputs" in failure(lambda: process.time(1), one_line)
        assert "no command 'dance'" in failure(lambda: process._ask("dancing", command="dance"), one_line)


def test_a_compiler_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_line: OneLine) -> None:
    monkeypatch.setattr(coreml_process, "WORKER", fake_coreml.bootstrap({"compiler": "dies"}))
    with CoreMLProcess(None, 20) as process:
        text = failure(lambda: process.compile(tmp_path, tmp_path), one_line)
    assert text.startswith("Core ML failed: its process died while compiling: signal 11 (Segm")
    assert text.endswith("try again, or export again")


def test_the_real_worker_says_that_this_is_no_mac(
    monkeypatch: pytest.MonkeyPatch, compiled: Path, one_line: OneLine
) -> None:
    if sys.platform == "darwin":
        pytest.skip("it is one")
    with CoreMLProcess("ALL", 60) as process:
        text = failure(lambda: process.load(compiled), one_line)
        assert "running a Core ML model needs macOS" in text


def test_the_worker_ends_with_its_input() -> None:
    done = subprocess.run(coreml_process.WORKER, input="", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == done.stderr == ""


def test_quit() -> None:
    channel = io.StringIO()
    coreml_worker.serve(['{"command": "time", "runs": 1}\n', '{"command": "quit"}\n', "no JSON"], channel)
    (answer,) = map(json.loads, channel.getvalue().splitlines())
    assert answer == {"ok": False, "error": "ValueError: no model is loaded"}


# ------------------------------------------------------------------------------- as a runtime


class Canned(CoreMLProcess):
    """A process that needs none."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction

    def predict(self, inputs: Any) -> Prediction:
        return self.prediction


def classifier(*keys: str | int) -> Canned:
    table = Table(keys, np.array([0.1 * (i + 1) for i in range(len(keys))]))
    return Canned(Prediction({"classLabel": np.array(["b"])}, {"probabilities": table}, 1.0, None))


def test_the_runtime(start: Callable[..., CoreMLProcess], compiled: Path) -> None:
    with start() as process:
        process.load(compiled)
        runtime = ProcessRuntime(process, 2)
        assert runtime.batch == 2 and runtime.first is None
        np.testing.assert_array_equal(runtime.run({"images": IMAGES})["logits"], fake_coreml.logits(IMAGES))
        first = runtime.first
        runtime.run({"images": IMAGES})
        assert first is not None and runtime.first is first
        with pytest.raises(BundleError, match=r"no tensor inside a model, so not stage1\.attn"):
            runtime.run({"images": IMAGES}, ["stage1.attn"])


def test_probabilities_take_the_order_of_the_labels() -> None:
    results = ProcessRuntime(classifier("b", "a"), 1, ["a", "b"]).run({})
    np.testing.assert_allclose(results["probabilities"], [[0.2, 0.1]])
    assert results["classLabel"].tolist() == ["b"]
    np.testing.assert_allclose(ProcessRuntime(classifier(1, 0), 1).run({})["probabilities"], [[0.2, 0.1]])


@pytest.mark.parametrize("labels", [None, ["a", "c"], ["a"], ["a", "b", "b"]])
def test_classes_that_are_not_the_labels(labels: list[str] | None, one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        ProcessRuntime(classifier("a", "b"), 1, labels).run({})
    assert "the 2 classes of probabilities are not" in one_line(caught.value)
