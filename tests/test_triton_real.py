"""What the real Triton makes of generated repositories: it loads them, and adds nothing to their configurations."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as client
from real_triton import TritonCrashed, TritonFailed, real_triton, servable
from served_bundles import make_bundle, make_plan_bundle

from debiexport.cards import Card
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.lint import lint_repository
from debiexport.triton.presets import PRESETS, ServingOptions
from debiexport.triton.protos import from_text
from debiexport.triton.repository import write_repository

WARM_UPS = 8  # one in six crashes


def write_all(repository: Path, card: Card, bundles: Path) -> dict[str, Path]:
    """One model of each kind under both presets, one with two versions; the ONNX models of those that have a plan."""
    dynamic, second = make_bundle(bundles / "dynamic", card), make_bundle(bundles / "second", card, seed=1)
    fixed, raw = make_bundle(bundles / "fixed", card, 2), make_bundle(bundles / "raw", card, input="uint8")
    plan = make_plan_bundle(bundles / "plan", card, Profile(1, 2, 4))
    for name, preset in PRESETS.items():
        named = [f"{name}_{kind.name}={kind}" for kind in (dynamic, fixed, raw, plan)]
        write_repository(named, repository, options=ServingOptions(preset, threads=1))
    write_repository([f"latency_dynamic={second}"], repository)
    return {f"{name}_plan": plan / "model.onnx" for name in PRESETS}


def without(config: Any, *fields: str) -> Any:
    for field in fields:
        config.ClearField(field)
    return config


def test_every_kind_of_model_is_loaded_as_it_is_written(tiny_card: Card, tmp_path: Path) -> None:
    models = write_all(tmp_path / "repository", tiny_card, tmp_path)
    assert lint_repository(tmp_path / "repository").findings == ()
    served = servable(tmp_path / "repository", tmp_path / "served", models)
    with real_triton(served, tmp_path / "log") as ports, client.InferenceServerClient(ports.grpc) as triton:
        index = triton.get_model_repository_index().models
        assert sorted((model.name, model.version, model.state) for model in index) == sorted(
            (f"{name}_{kind}", version, "READY")
            for name in PRESETS
            for kind in ("dynamic", "fixed", "raw", "plan")
            for version in (("1", "2") if (name, kind) == ("latency", "dynamic") else ("1",))
        )
        for folder in sorted(served.iterdir()):
            ours = from_text((folder / "config.pbtxt").read_text())
            # What runs in the place of the backend is in Python, and Triton notes that.
            theirs = without(triton.get_model_config(folder.name).config, "runtime")
            assert theirs == ours, folder.name


def test_a_fixed_batch_has_a_bounded_queue(tiny_card: Card, tmp_path: Path) -> None:
    """Overload is refused, though Triton puts no batches together."""
    bundle = make_bundle(tmp_path / "fixed", tiny_card, 1)
    write_repository([bundle], tmp_path / "repository", options=ServingOptions(threads=1, max_queue=1))
    given = client.InferInput("images", [1, 3, 64, 64], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3, 64, 64), np.float32))
    with real_triton(tmp_path / "repository", tmp_path / "log") as ports, client.InferenceServerClient(ports.grpc) as c:
        answers: Queue[client.InferenceServerException | None] = Queue()
        for _ in range(200):
            c.async_infer("tiny_debi", [given], callback=lambda result, error: answers.put(error))
        errors = [answers.get(timeout=30) for _ in range(200)]
    reasons = [(error.status(), error.message()) for error in errors if error is not None]
    assert 0 < len(reasons) < 200
    assert {status for status, _ in reasons} == {"StatusCode.UNAVAILABLE"}
    assert all("Exceeds maximum queue size" in message for _, message in reasons)


def test_a_warm_up_turns_wrong_sizes_into_an_error_of_loading(tiny_card: Card, tmp_path: Path) -> None:
    """The linter says so before: what it finds, Triton refuses; without a warm-up it would load.

    Triton 2.51 with its Python backend, whatever the model raises, ends by SIGSEGV in about every sixth warm-up that
    fails: no model is served then either, but the reason is not told, so such a start is tried again.
    """
    write_repository([make_bundle(tmp_path / "b", tiny_card)], tmp_path / "r", options=ServingOptions(threads=1))
    config = tmp_path / "r/tiny_debi/config.pbtxt"
    wrong = config.read_text().replace("dims: 64", "dims: 32")
    config.write_text(wrong)
    assert not lint_repository(tmp_path / "r").ok
    with pytest.raises(TritonFailed, match="failed to load"):
        _start_until_told(tmp_path / "r", tmp_path / "log")
    log = (tmp_path / "log").read_text()
    assert re.search("failed to run warmup sample 'batch_1'.*Got: 32 Expected: 64", log, re.DOTALL)

    config.write_text(re.sub(r"model_warmup \{.*?\n\}\n", "", wrong, flags=re.DOTALL))
    assert not lint_repository(tmp_path / "r").ok
    with real_triton(tmp_path / "r", tmp_path / "log"):
        pass  # it is said to be ready


def _start_until_told(repository: Path, log: Path) -> None:
    for _ in range(WARM_UPS):
        with suppress(TritonCrashed), real_triton(repository, log):
            return
    pytest.fail(f"{WARM_UPS} starts of Triton crashed, see {log}")
