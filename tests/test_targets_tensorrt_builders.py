"""Which TensorRT builds, what is asked of it, and what of its answer is not taken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import rtx_models as models
from fake_tensorrt import FakeTensorRT
from onnx.helper import make_function, make_node, make_opsetid
from rtx_models import needs_rtx
from tiny_onnx import tiny_model

from debiexport.errors import EngineError, MissingDependencyError, ParityError, UsageError
from debiexport.progress import silent
from debiexport.targets.tensorrt import builders, rtx
from debiexport.targets.tensorrt.builders import Built, Request, best_engine, build, check_engine, request
from debiexport.targets.tensorrt.fingerprint import Fingerprint
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.rtx_report import RtxBuild, RtxLayer, RtxTensor

OneLine = Callable[[BaseException], str]
ONE, RANGE = Profile(1, 1, 1), Profile(1, 4, 8)
HALF = onnx.TensorProto.FLOAT16


@pytest.fixture
def without_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "missing", lambda packages: list(packages))


def asked(kind: str, **changes: Any) -> Request:
    return replace(Request(kind, ("sm89",), False, "fp16", None), **changes)


def built(folder: Path, what: Request, profile: Profile = ONE) -> Built:
    return build(what, folder / "model.onnx", profile, folder / "model.plan", folder / "model.timing", silent)


# ------------------------------------------------------------------------------- choosing


def test_full_tensorrt_is_the_best(trt: FakeTensorRT) -> None:
    assert best_engine() == ("tensorrt", None)
    assert check_engine("tensorrt") == "tensorrt"
    assert check_engine("none") == "none"


def test_without_a_gpu(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    trt.cuda.count = 0
    monkeypatch.setattr(builders, "missing", lambda packages: [])
    kind, why = best_engine()
    assert kind == check_engine("rtx") == "rtx"
    assert why is not None and why.startswith(
        "the engine is built with TensorRT for RTX, since building an engine needs"
    )
    with pytest.raises(MissingDependencyError) as caught:
        check_engine("tensorrt")
    assert "--engine rtx" in one_line(caught.value) and "--engine none" in str(caught.value)


@pytest.mark.usefixtures("without_rtx")
def test_with_nothing_at_all(monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    kind, why = best_engine()
    assert kind == "none"
    assert why is not None and why.startswith("no engine is built, since building an engine needs an NVIDIA GPU and")
    assert why.endswith("; --engine tensorrt insists")
    with pytest.raises(MissingDependencyError) as caught:
        check_engine("rtx")
    assert "pip install 'debiexport[rtx]'" in one_line(caught.value) and "--engine none" in str(caught.value)


def test_what_is_no_engine(one_line: OneLine) -> None:
    with pytest.raises(UsageError) as caught:
        check_engine("TensorRT")
    assert one_line(caught.value) == "--engine is 'TensorRT': give tensorrt, rtx, none"


def test_requests(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builders, "missing", lambda packages: [])
    options: dict[str, Any] = {"plugins": True, "precision": "fp32", "timing_cache": None}
    assert request("rtx", None, **options) == Request("rtx", ("sm89",), True, "fp32", None)
    assert request("rtx", ["sm80", "sm120"], **options).capabilities == ("sm80", "sm120")
    cache = tmp_path / "times"
    assert request(None, None, **{**options, "timing_cache": cache}).timing_cache == cache
    assert request(None, None, **options).note is None
    trt.cuda.count = 0
    assert request("rtx", None, **options).note is None
    assert "since building an engine needs" in (request(None, None, **options).note or "")


@pytest.mark.parametrize(
    ("kind", "capabilities", "cache", "words"),
    [
        ("tensorrt", ["sm89"], None, "with --engine tensorrt the engine is for the GPU of this machine: leave --gpu"),
        ("none", ["sm89"], None, "with --engine none the engine is not built: leave --gpu out"),
        ("rtx", ["sm90"], None, "--gpu sm90 is not served by TensorRT for RTX"),
        ("rtx", None, "times", "--timing-cache is for --engine tensorrt, and this is --engine rtx: leave it out"),
        ("tensorrt", None, ".", "--timing-cache . is a folder: give a file"),
    ],
)
def test_options_that_do_not_go_together(
    trt: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    one_line: OneLine,
    kind: str,
    capabilities: list[str] | None,
    cache: str | None,
    words: str,
) -> None:
    monkeypatch.setattr(builders, "missing", lambda packages: [])
    path = None if cache is None else Path(cache)
    with pytest.raises(UsageError) as caught:
        request(kind, capabilities, plugins=False, precision="fp16", timing_cache=path)
    assert words in one_line(caught.value)


# ------------------------------------------------------------------------------- TensorRT for RTX


@needs_rtx
def test_an_attention_by_tensorrt_for_rtx(tmp_path: Path) -> None:
    onnx.save(models.attention(), tmp_path / "model.onnx")
    result = built(tmp_path, asked("rtx", capabilities=("sm80", "sm120")))
    record = result.record
    assert record is not None and record.model == "model.onnx" and record.profile == ONE
    assert record.fingerprint == Fingerprint("rtx", record.fingerprint.version, None, ("8.0", "12.0"))
    assert record.contents["native_attentions"] == 1
    assert record.contents["layer_types"]["MATRIX_MULTIPLY"] == 2
    assert record.contents["tensor_types"] == {"float16": 3, "float32": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.plan"]
    assert result.text.startswith("model.plan: TensorRT for RTX 1.")
    assert " for sm80 (Ampere, A100), sm120 (Blackwell, RTX 50), batch 1, " in result.text
    assert "6 layers, all 1 native attentions recognised; parsed in" in result.text


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What TensorRT for RTX is asked; what it answers is under "answer"."""
    told: dict[str, Any] = {"answer": report()}

    def build(model: Path, plan: Path | None, capabilities: Any, **options: Any) -> RtxBuild:
        told.update(model=onnx.load(str(model)), path=model, plan=plan, capabilities=capabilities, **options)
        if plan is not None:
            plan.write_bytes(b"plan")
        result: RtxBuild = told["answer"]
        return result

    monkeypatch.setattr(rtx, "build", build)
    return told


def report(*types: str, attentions: tuple[str, ...] = ("scores", "values")) -> RtxBuild:
    out = (RtxTensor("y", "float16", (1,)),)
    layers = tuple(RtxLayer(f"layer{i}", kind, "", (), out) for i, kind in enumerate(types))
    return RtxBuild("1.7.1", ("sm89",), None, layers, (), attentions, 0.1, 0.2, None, None, 4, "0" * 64)


def fused_model() -> onnx.ModelProto:
    """An attention with one of the project's operations behind it, and its definition."""
    model = models.attention()
    (out,) = model.graph.output
    model.graph.node.append(make_node("AgentAttention", [out.name], ["more"], "a/AgentAttention", domain="debiexport"))
    out.name = "more"
    model.opset_import.append(make_opsetid("debiexport", 1))
    body = [make_node("Identity", ["x"], ["y"])]
    model.functions.append(make_function("debiexport", "AgentAttention", ["x"], ["y"], body, model.opset_import[:1]))
    return model


@pytest.mark.parametrize(("profile", "given"), [(ONE, None), (RANGE, (1, 4, 8))])
def test_what_is_asked_of_it(
    tmp_path: Path, answers: dict[str, Any], profile: Profile, given: tuple[int, int, int] | None
) -> None:
    onnx.save(models.attention(), tmp_path / "model.onnx")
    result = built(tmp_path, asked("rtx", capabilities=("sm86",)), profile)
    assert (answers["path"], answers["plan"]) == (tmp_path / "model.onnx", tmp_path / "model.plan")
    assert (answers["capabilities"], answers["profile"], answers["with_plugins"]) == (("sm86",), given, False)
    assert result.record is not None and result.record.profile == profile
    assert result.record.fingerprint.compute_capabilities == ("8.9",)  # those that it says it has built for


def test_fused_operations_are_a_proof_and_no_engine(tmp_path: Path, answers: dict[str, Any]) -> None:
    onnx.save(fused_model(), tmp_path / "model.onnx")
    answers["answer"] = report("PLUGIN_V3", "SOFTMAX")
    result = built(tmp_path, asked("rtx", plugins=True))
    assert result.record is None and answers["plan"] is None and answers["with_plugins"]
    assert not answers["model"].functions and not answers["path"].exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert onnx.load(str(tmp_path / "model.onnx")).functions  # the bundle's keeps its definitions
    assert "takes the graph with 1 plugins, 2 layers, all 1 native attentions recognised" in result.text
    assert "no engine is kept" in result.text


@pytest.mark.parametrize("types", [(), ("PLUGIN_V3", "PLUGIN_V3"), ("PLUGIN_V2",)])
def test_operations_that_are_not_taken_for_plugins(
    tmp_path: Path, answers: dict[str, Any], one_line: OneLine, types: tuple[str, ...]
) -> None:
    onnx.save(fused_model(), tmp_path / "model.onnx")
    answers["answer"] = report(*types)
    with pytest.raises(EngineError) as caught:
        built(tmp_path, asked("rtx", plugins=True))
    taken = types.count("PLUGIN_V3")
    assert f"model.onnx has 1 fused operations, and TensorRT for RTX took {taken} of them" in one_line(caught.value)


@pytest.mark.parametrize(("found", "count"), [((), 2), (("scores",), 1), (("values", "other"), 1)])
def test_attentions_that_are_not_recognised(
    tmp_path: Path, answers: dict[str, Any], one_line: OneLine, found: tuple[str, ...], count: int
) -> None:
    onnx.save(models.attention(), tmp_path / "model.onnx")
    answers["answer"] = report(attentions=found)
    with pytest.raises(EngineError) as caught:
        built(tmp_path, asked("rtx"))
    missed = "values" if found == ("scores",) else "scores"
    text = one_line(caught.value)
    assert f"did not recognise {count} of 2 products of attentions, such as {missed}, as parts of one" in text
    assert caught.value.exit_code == 1


# ------------------------------------------------------------------------------- full TensorRT


def test_by_full_tensorrt(tmp_path: Path, trt: FakeTensorRT) -> None:
    onnx.save(tiny_model("N", HALF), tmp_path / "model.onnx")
    result = built(tmp_path, asked("tensorrt", timing_cache=tmp_path / "times"), RANGE)
    assert result.record is not None and result.record.profile == RANGE
    assert result.record.fingerprint.gpu == "NVIDIA L4"
    assert result.record.contents["layers"] == 7
    assert (tmp_path / "model.plan").read_bytes().startswith(b"fake plan ")
    assert (tmp_path / "times").read_bytes() == (tmp_path / "model.timing").read_bytes()
    assert result.text.startswith("model.plan: TensorRT 11.4.0.106, NVIDIA L4 (8.9), batch 1:4:8, ")
    assert result.text.endswith("of 2 that multiply matrices: fp16 100%")


def test_another_precision_than_was_asked_for(tmp_path: Path, trt: FakeTensorRT, one_line: OneLine) -> None:
    onnx.save(tiny_model(1, HALF), tmp_path / "model.onnx")
    with pytest.raises(ParityError) as caught:
        built(tmp_path, asked("tensorrt", precision="fp32"))
    assert "the engine is not proven to be fp32" in one_line(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
