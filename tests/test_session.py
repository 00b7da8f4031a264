"""Session options: each reaches ONNX Runtime, and nothing else can be asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from debiexport.errors import BundleError
from debiexport.runtimes.ort import OrtRuntime
from debiexport.runtimes.session import ENTRIES, LEVELS, MODES, RECOMMENDED, SessionOptions

OneLine = Callable[[BaseException], str]


def applied(**options: Any) -> ort.SessionOptions:
    found = ort.SessionOptions()
    SessionOptions(**options).apply(found)
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_levels_reach_onnxruntime(level: str) -> None:
    wanted = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    assert applied(graph_optimization_level=level).graph_optimization_level == wanted


@pytest.mark.parametrize("mode", MODES)
def test_modes_reach_onnxruntime(mode: str) -> None:
    assert applied(execution_mode=mode).execution_mode == getattr(ort.ExecutionMode, MODES[mode])


@pytest.mark.parametrize("value", [True, False])
def test_memory_switches_reach_onnxruntime(value: bool) -> None:
    assert applied(memory_pattern=value).enable_mem_pattern is value
    assert applied(memory_arena=value).enable_cpu_mem_arena is value
    assert applied(memory_reuse=value).enable_mem_reuse is value


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_reach_onnxruntime(name: str) -> None:
    for value in (ENTRIES[name][0], ENTRIES[name][-1]):
        assert applied(entries={name: value}).get_session_config_entry(name) == value
    with pytest.raises(RuntimeError):
        applied().get_session_config_entry(name)  # what is not given is left to ONNX Runtime


def test_without_arguments_they_are_the_runtimes_own() -> None:
    default, ours = ort.SessionOptions(), applied()
    switches = ("enable_mem_pattern", "enable_cpu_mem_arena", "enable_mem_reuse")
    for name in ("graph_optimization_level", "execution_mode", *switches):
        assert getattr(ours, name) == getattr(default, name)


# ------------------------------------------------------------------------------------- the runtime


@pytest.fixture
def model(tmp_path: Path) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


OTHER = SessionOptions(
    graph_optimization_level="basic",
    execution_mode="parallel",
    memory_pattern=False,
    memory_arena=False,
    memory_reuse=False,
    entries={"session.intra_op.allow_spinning": "0", "session.dynamic_block_base": "4"},
)


def test_a_runtime_opens_its_sessions_with_them(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[ort.SessionOptions] = []
    real = ort.InferenceSession

    def session(model: Any, options: ort.SessionOptions, providers: Any) -> Any:
        opened.append(options)
        return real(model, options, providers=providers)

    monkeypatch.setattr(ort, "InferenceSession", session)
    runtime = OrtRuntime(model, 1, session=OTHER)
    (options,) = opened
    assert options.intra_op_num_threads == 1
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not (options.enable_mem_pattern or options.enable_cpu_mem_arena or options.enable_mem_reuse)
    assert options.get_session_config_entry("session.dynamic_block_base") == "4"
    assert runtime.options == {"provider": "CPUExecutionProvider", "intra_op_num_threads": 1, **OTHER.to_dict()}


def test_a_runtime_says_what_it_has_by_default(model: Path) -> None:
    assert OrtRuntime(model).options == {
        "provider": "CPUExecutionProvider",
        "intra_op_num_threads": "default",
        "graph_optimization_level": "all",
        "execution_mode": "sequential",
        "memory_pattern": True,
        "memory_arena": True,
        "memory_reuse": True,
        "entries": {},
    }


# ---------------------------------------------------------------------------------- as a dictionary


@pytest.mark.parametrize("options", [SessionOptions(), OTHER, RECOMMENDED])
def test_round_trip(options: SessionOptions) -> None:
    data = json.loads(json.dumps(options.to_dict()))
    assert SessionOptions.from_dict(data) == options
    assert set(data) == {field.name for field in fields(SessionOptions)}


def test_entries_are_written_in_order() -> None:
    """Two exports give the same bytes, whatever the order in which the options were given."""
    entries = {"session.set_denormal_as_zero": "1", "session.dynamic_block_base": "4"}
    assert list(SessionOptions(entries=entries).to_dict()["entries"]) == sorted(entries)


def test_what_is_left_out_is_the_default() -> None:
    assert SessionOptions.from_dict({}) == SessionOptions()
    assert SessionOptions.from_dict({"memory_arena": False}) == SessionOptions(memory_arena=False)


REFUSED: list[tuple[Any, str]] = [
    ([], "a list"),
    (None, "None"),
    ("all", "'all'"),
    ({"graph_optimization_level": "most"}, "'most': allowed are disabled, basic, extended, all"),
    ({"graph_optimization_level": 99}, "99"),
    ({"graph_optimization_level": ["all"]}, "a list"),
    ({"execution_mode": "both"}, "'both': allowed are sequential, parallel"),
    ({"memory_pattern": 1}, "memory_pattern is 1"),
    ({"memory_arena": "false"}, "memory_arena is 'false'"),
    ({"entries": [["a", "b"]]}, "a list"),
    ({"entries": {"session.dynamic_block_base": "65"}}, "'65': allowed are 0 to 64"),
    ({"entries": {"session.dynamic_block_base": "-1"}}, "'-1'"),
    ({"entries": {"session.dynamic_block_base": "4 "}}, "'4 '"),
    ({"entries": {"session.dynamic_block_base": 4}}, "has 4"),
    ({"entries": {"session.intra_op.allow_spinning": True}}, "has True"),
    ({"entries": {"session.intra_op.allow_spinning": {}}}, "a dict"),
    # What a bundle from elsewhere must not be able to ask for.
    ({"enable_profiling": True}, "'enable_profiling'"),
    ({"profile_file_prefix": "/etc/x"}, "'profile_file_prefix'"),
    ({"optimized_model_filepath": "/etc/x"}, "'optimized_model_filepath'"),
    ({"intra_op_num_threads": 10**6}, "'intra_op_num_threads'"),
    ({"entries": {"session.model_external_initializers_file_folder_path": "/etc"}}, "external_initializers"),
    ({"entries": {"ep.context_enable": "1"}}, "'ep.context_enable'"),
    ({"entries": {"session.save_model_format": "ORT"}}, "'session.save_model_format'"),
    ({"entries": {"session.strict_shape_type_inference": "0"}}, "'session.strict_shape_type_inference'"),
    ({"entries": {"x" * 500: "1"}}, "…"),
    ({"a\nb": 1}, r"'a\nb'"),
]


@pytest.mark.parametrize(("data", "words"), REFUSED, ids=[str(data)[:40] for data, _ in REFUSED])
def test_refuses(data: Any, words: str, one_line: OneLine) -> None:
    with pytest.raises(BundleError) as caught:
        SessionOptions.from_dict(data)
    text = one_line(caught.value)
    assert words in text
    assert len(text) < 400
