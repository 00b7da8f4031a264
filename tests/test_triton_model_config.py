"""Model configurations: what Triton is told of a model, for every kind of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from served_bundles import LABELS, make_bundle, make_plan_bundle

from debiexport import extras
from debiexport.cards import Card
from debiexport.errors import BundleError, MissingDependencyError, UsageError
from debiexport.runtimes.session import RECOMMENDED, SessionOptions
from debiexport.targets.tensorrt.profile import Profile
from debiexport.triton.dtypes import config_type, protocol_type
from debiexport.triton.model_config import model_config, untold
from debiexport.triton.presets import LATENCY, THROUGHPUT, ServingOptions, preset
from debiexport.triton.protos import from_text, to_text
from debiexport.triton.served import served_models


def configure(bundle: Path, options: ServingOptions | None = None, **choices: Any) -> Any:
    (served,) = served_models(bundle, **choices)
    return model_config(served, options)


@pytest.fixture
def dynamic(tiny_card: Card, tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "dynamic", tiny_card)


@pytest.fixture
def plan(tiny_card: Card, tmp_path: Path) -> Path:
    return make_plan_bundle(tmp_path / "plan", tiny_card, Profile(1, 4, 16))


def test_dims_leave_out_a_batch_that_the_server_puts_together(dynamic: Path) -> None:
    config = configure(dynamic)
    assert config.max_batch_size == 8
    assert (config.platform, config.backend, config.default_model_filename) == (
        "onnxruntime_onnx",
        "onnxruntime",
        "model.onnx",
    )
    (given,), (result,) = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("images", 11, [3, 64, 64])
    assert (result.name, result.data_type, list(result.dims)) == ("logits", 11, [6])
    assert result.label_filename == "labels.txt"


def test_dims_include_a_fixed_batch(tiny_card: Card, tmp_path: Path) -> None:
    config = configure(make_bundle(tmp_path / "b", tiny_card, 3))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [3, 3, 64, 64]
    assert list(config.output[0].dims) == [3, 6]
    assert not config.dynamic_batching.preferred_batch_size
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    (warmup,) = config.model_warmup
    assert (warmup.batch_size, list(warmup.inputs["images"].dims)) == (1, [3, 3, 64, 64])


def test_bytes_are_configured_as_bytes(tiny_card: Card, tmp_path: Path) -> None:
    config = configure(make_bundle(tmp_path / "b", tiny_card, input="uint8"))
    assert (config.input[0].data_type, list(config.input[0].dims)) == (2, [64, 64, 3])
    assert config.model_warmup[0].inputs["images"].data_type == 2
    assert config.parameters["input"].string_value == "uint8"


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("chosen", [LATENCY, THROUGHPUT])
def test_the_queue_is_always_bounded(tiny_card: Card, tmp_path: Path, batch: int | None, chosen: Any) -> None:
    config = configure(make_bundle(tmp_path / "b", tiny_card, batch), ServingOptions(chosen))
    policy = config.dynamic_batching.default_queue_policy
    assert config.dynamic_batching.HasField("default_queue_policy")
    assert policy.timeout_action == policy.REJECT
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (chosen.max_queue, chosen.timeout_us)
    assert policy.allow_timeout_override


def test_presets_differ_in_what_is_waited_for(dynamic: Path, plan: Path) -> None:
    fast, full = (configure(dynamic, ServingOptions(chosen)).dynamic_batching for chosen in (LATENCY, THROUGHPUT))
    assert (fast.max_queue_delay_microseconds, list(fast.preferred_batch_size)) == (0, [8])
    assert 1000 <= full.max_queue_delay_microseconds <= 5000
    assert list(full.preferred_batch_size) == [8]
    tuned = configure(plan, ServingOptions(THROUGHPUT)).dynamic_batching
    assert list(tuned.preferred_batch_size) == [4, 16]
    assert list(configure(plan, ServingOptions(THROUGHPUT), max_batch=3).dynamic_batching.preferred_batch_size) == [3]


def test_figures_of_a_preset_can_be_replaced(dynamic: Path) -> None:
    options = ServingOptions(THROUGHPUT, queue_delay_us=0, timeout_us=7, max_queue=9)
    batching = configure(dynamic, options).dynamic_batching
    assert batching.max_queue_delay_microseconds == 0
    assert batching.default_queue_policy.default_timeout_microseconds == 7
    assert batching.default_queue_policy.max_queue_size == 9


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 8])])
def test_warm_up_is_of_batch_1_and_the_largest_at_real_sizes(dynamic: Path, max_batch: int, sizes: list[int]) -> None:
    warmups = configure(dynamic, max_batch=max_batch).model_warmup
    assert [warmup.batch_size for warmup in warmups] == sizes
    for warmup in warmups:
        assert list(warmup.inputs["images"].dims) == [3, 64, 64]
        assert warmup.inputs["images"].zero_data


def test_instances_are_explicit(dynamic: Path, plan: Path) -> None:
    (cpu,) = configure(dynamic, ServingOptions(instances=2, threads=3)).instance_group
    assert (cpu.count, cpu.Kind.Name(cpu.kind)) == (2, "KIND_CPU")
    (gpu,) = configure(plan).instance_group
    assert (gpu.count, gpu.Kind.Name(gpu.kind)) == (1, "KIND_GPU")
    assert configure(dynamic, ServingOptions(threads=3)).parameters["intra_op_thread_count"].string_value == "3"
    assert "intra_op_thread_count" not in configure(plan).parameters


def test_onnx_on_a_gpu_is_told_to_keep_float32(dynamic: Path) -> None:
    config = configure(dynamic, ServingOptions(gpu=True))
    (group,), (cuda,) = config.instance_group, config.optimization.execution_accelerators.gpu_execution_accelerator
    assert group.Kind.Name(group.kind) == "KIND_GPU"
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
    assert not configure(dynamic).optimization.HasField("execution_accelerators")


def test_cuda_graphs_are_for_plans_alone(dynamic: Path, plan: Path, tiny_card: Card, tmp_path: Path) -> None:
    assert not configure(dynamic).optimization.HasField("cuda")
    optimization = configure(plan).optimization
    assert optimization.cuda.graphs
    assert [spec.batch_size for spec in optimization.cuda.graph_spec] == [1, 2, 4, 8, 16]
    assert list(optimization.cuda.graph_spec[0].input["images"].dim) == [3, 64, 64]
    assert not optimization.HasField("execution_accelerators")
    odd = configure(make_plan_bundle(tmp_path / "odd", tiny_card, Profile(1, 3, 6))).optimization.cuda
    assert [spec.batch_size for spec in odd.graph_spec] == [1, 2, 3, 4, 6]
    fixed = configure(make_plan_bundle(tmp_path / "fixed", tiny_card, Profile(2, 2, 2))).optimization.cuda
    assert [(spec.batch_size, list(spec.input["images"].dim)) for spec in fixed.graph_spec] == [(0, [2, 3, 64, 64])]


def test_session_options_travel_as_far_as_triton_has_them(tiny_card: Card, tmp_path: Path) -> None:
    session = SessionOptions("extended", "parallel", False, False, False, {"session.intra_op.allow_spinning": "0"})
    config = configure(make_bundle(tmp_path / "b", tiny_card, session=session))
    assert config.optimization.graph.level == 1
    told = {name: config.parameters[name].string_value for name in ("execution_mode", "enable_mem_arena")}
    assert told == {"execution_mode": "1", "enable_mem_arena": "0"}
    assert config.parameters["enable_mem_pattern"].string_value == "0"
    assert untold(session) == ["session.intra_op.allow_spinning"]
    assert untold(SessionOptions()) == untold(RECOMMENDED) == []


@pytest.mark.parametrize(("level", "number"), [("disabled", 2), ("basic", -1), ("extended", 1), ("all", 0)])
def test_graph_levels_are_those_of_tritons_backend(tiny_card: Card, tmp_path: Path, level: str, number: int) -> None:
    bundle = make_bundle(tmp_path / "b", tiny_card, session=SessionOptions(level))
    assert configure(bundle).optimization.graph.level == number


def test_the_cache_is_off_and_two_versions_are_kept(dynamic: Path) -> None:
    config = configure(dynamic)
    assert config.HasField("response_cache")
    assert not config.response_cache.enable
    assert config.version_policy.latest.num_versions == 2


def test_provenance_is_of_a_version(dynamic: Path) -> None:
    (served,) = served_models(dynamic)
    config = model_config(served, versions={2: {"source": "b"}, 1: {"source": "a"}})
    assert config.parameters["1.source"].string_value == "a"
    assert config.parameters["2.source"].string_value == "b"
    assert "1.model_sha256" not in config.parameters
    assert model_config(served).parameters["1.model_sha256"].string_value == served.provenance["model_sha256"]


def test_labels_are_for_the_output_that_has_their_number(tiny_card: Card, tmp_path: Path) -> None:
    assert len(LABELS) == 6
    assert not configure(make_bundle(tmp_path / "b", tiny_card, labels=None)).output[0].label_filename


def test_text_is_read_back_as_it_was(dynamic: Path, plan: Path) -> None:
    for bundle in (dynamic, plan):
        config = configure(bundle)
        assert from_text(to_text(config)) == config
        assert to_text(config) == to_text(configure(bundle))


@pytest.mark.parametrize(
    ("text", "words"),
    [("max_batch: 4", "max_batch"), ("max_batch_size: four", "1:17"), ("input [ { dims", "1:")],
)
def test_text_that_is_no_configuration_is_refused_by_its_place(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        from_text(text)
    assert "\n" not in str(caught.value)


def test_without_tritonclient_the_extra_is_named(dynamic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "missing", lambda packages: [name for name in packages if name == "tritonclient"])
    with pytest.raises(MissingDependencyError, match=r"tritonclient.*debiexport\[serve\]"):
        configure(dynamic)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instances": 0}, "--instances is 0: give 1 to 64"),
        ({"threads": 0}, "--threads is 0"),
        ({"queue_delay_us": -1}, "--queue-delay-us is -1"),
        ({"timeout_us": 0}, "timeout in microseconds is 0"),
        ({"max_queue": 0}, "--max-queue is 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ServingOptions(**options)  # type: ignore[arg-type]


def test_presets_have_names() -> None:
    assert (preset("latency"), preset("throughput")) == (LATENCY, THROUGHPUT)
    with pytest.raises(UsageError, match="--preset is 'fast': give latency or throughput"):
        preset("fast")


def test_types_have_tritons_names() -> None:
    assert (protocol_type("float32"), config_type("uint8")) == ("FP32", "TYPE_UINT8")
    with pytest.raises(BundleError, match="no type for 'complex64'"):
        protocol_type("complex64")
