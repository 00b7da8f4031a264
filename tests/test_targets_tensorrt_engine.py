"""Building engines: over a fake TensorRT, up to the real builder of TensorRT for RTX, and on a GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRT
from onnx.helper import make_function, make_node, make_opsetid
from tiny_onnx import tiny_model

from debiexport.errors import BundleError, EngineError, MissingDependencyError, OutputError, ParityError, UsageError
from debiexport.runtimes import cuda
from debiexport.targets.tensorrt import engine as engines
from debiexport.targets.tensorrt.engine import BuiltEngine, build_engine
from debiexport.targets.tensorrt.fingerprint import Fingerprint
from debiexport.targets.tensorrt.inspector import read_inspector, require_precision
from debiexport.targets.tensorrt.profile import Profile

OneLine = Callable[[BaseException], str]
HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
RANGE = Profile(1, 4, 8)


def content(batch: int | str = "N", dtype: int = HALF) -> bytes:
    return bytes(tiny_model(batch, dtype).SerializeToString())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda("NVIDIA L4")
    monkeypatch.setattr(cuda, "import_cuda_runtime", lambda: fake)
    return fake


@pytest.fixture(params=["10.13.3.9", "11.4.0.106"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, gpu: FakeCuda) -> FakeTensorRT:
    module = FakeTensorRT(gpu, request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", module.plugin)
    return module


# ------------------------------------------------------------------------------- what is built


@pytest.mark.parametrize("profile", [RANGE, Profile(2, 2, 2)])
def test_any_batch(trt: FakeTensorRT, profile: Profile) -> None:
    built = build_engine(content(), profile=profile)
    assert built.profile == profile
    shapes = trt.config.profiles[0].shapes
    assert shapes == {"images": tuple((n, 3, 8, 8) for n in (profile.min, profile.opt, profile.max))}
    assert built.plan.startswith(b"fake plan ")  # nothing before it
    assert built.fingerprint == Fingerprint("tensorrt", trt.__version__, "NVIDIA L4", ("8.9",), "13.2", "none")
    assert built.parse_s >= 0 and built.build_s >= 0
    assert str(built).startswith(f"TensorRT {trt.__version__}, NVIDIA L4 (8.9), batch {profile}, 0.0 MB, built in")


@pytest.mark.parametrize("profile", [None, Profile(3, 3, 3)])
def test_a_fixed_batch(trt: FakeTensorRT, profile: Profile | None) -> None:
    assert build_engine(content(3), profile=profile).profile == Profile(3, 3, 3)
    assert trt.config.profiles == []


@pytest.mark.parametrize("batch", [3, "N"])
@pytest.mark.parametrize(("dtype", "precision", "other"), [(HALF, "fp16", "fp32"), (FLOAT, "fp32", "fp16")])
def test_the_precision_is_that_of_the_graph_and_is_proven(
    trt: FakeTensorRT, batch: int | str, dtype: int, precision: str, other: str
) -> None:
    built = build_engine(content(batch, dtype), profile=None if batch == 3 else RANGE)
    summary = read_inspector(built.layers)
    require_precision(summary, precision)
    with pytest.raises(ParityError):
        require_precision(summary, other)
    assert len(summary.products) == 2 and summary.layers == 7
    assert trt.config.flags_set == set()  # TF32 is off, and nothing was turned on


def test_the_flags_of_the_network(trt: FakeTensorRT) -> None:
    build_engine(content(1))
    assert trt.network.taken_flags == (1 << 1 if trt.__version__.startswith("10") else 0)


def test_a_network_that_was_not_typed_would_be_noticed(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_network_flags", lambda trt, *, plugins: 0)
    built = build_engine(content(1))
    check = read_inspector(built.layers).check("fp16")
    assert len(check) == (2 if trt.__version__.startswith("10") else 0)


def test_typing_may_have_no_flag_since_11(trt: FakeTensorRT, one_line: OneLine) -> None:
    del trt.NetworkDefinitionCreationFlag
    if trt.__version__.startswith("11"):
        build_engine(content(1))
        return
    with pytest.raises(MissingDependencyError) as caught:
        build_engine(content(1))
    assert "has no STRONGLY_TYPED" in one_line(caught.value)


def test_from_a_file_and_with_a_limit(trt: FakeTensorRT, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content(1))
    told: list[str] = []
    built = build_engine(tmp_path / "model.onnx", workspace_bytes=1 << 30, progress=told.append)
    assert trt.config.limits == {trt.MemoryPoolType.WORKSPACE: 1 << 30}
    assert built.plan == build_engine(content(1)).plan and not trt.config.limits
    assert told[0] == f"TensorRT {trt.__version__} has read the model: 7 layers" and told[1].startswith("built in")


# ------------------------------------------------------------------------------- timing caches


def test_the_timing_cache_is_read_and_written(trt: FakeTensorRT, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    first = build_engine(content(1), timing_cache=path)
    assert path.read_bytes() == first.timing_cache == b"cache of NVIDIA L4;kernel;"
    second = build_engine(content(1), timing_cache=path)
    assert path.read_bytes() == second.timing_cache == b"cache of NVIDIA L4;kernel;kernel;"
    assert build_engine(content(1)).timing_cache == first.timing_cache
    assert [each.name for each in tmp_path.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize("held", [b"no cache", b"cache of another GPU;kernel;"])
def test_a_timing_cache_of_something_else(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine, held: bytes) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(held)
    with pytest.raises(UsageError) as caught:
        build_engine(content(1), timing_cache=path)
    assert "is not of this TensorRT and this GPU: name another file, or remove it" in one_line(caught.value)
    assert path.read_bytes() == held and [each.name for each in tmp_path.iterdir()] == ["timing.cache"]


def test_a_place_that_cannot_be_written_is_said_before_the_build(
    trt: FakeTensorRT, tmp_path: Path, one_line: OneLine
) -> None:
    for path in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(OutputError) as caught:
            build_engine(content(1), timing_cache=path)
        assert f"--timing-cache {path} cannot be written" in one_line(caught.value)
    assert not hasattr(trt, "network")


def test_a_build_that_fails_leaves_the_cache(trt: FakeTensorRT, tmp_path: Path) -> None:
    trt.refuses = "build"
    with pytest.raises(EngineError):
        build_engine(content(1), timing_cache=tmp_path / "timing.cache")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- plugins


def plugin_model() -> bytes:
    """The tiny model with an operation of the project behind it, whose definition is in the model."""
    model = tiny_model(1, HALF)
    model.graph.output[0].name = "more"
    model.graph.node.append(make_node("AgentAttention", ["logits"], ["more"], "a/attn", domain="debiexport", aot=1))
    model.opset_import.append(make_opsetid("debiexport", 1))
    body = [make_node("Identity", ["x"], ["y"])]
    model.functions.append(make_function("debiexport", "AgentAttention", ["x"], ["y"], body, model.opset_import[:1]))
    return bytes(model.SerializeToString())


def test_plugins_are_registered_and_their_definitions_dropped(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration = ModuleType("debiexport.plugins.registration")

    def register_plugins(module: Any, plugin: Any) -> None:
        assert module is trt and plugin is trt.plugin
        plugin.registered.add("AgentAttention")

    registration.register_plugins = register_plugins  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "debiexport.plugins.registration", registration)
    monkeypatch.setattr(engines, "_inspect", lambda *args: "{}")  # the fake computes no plugin
    build_engine(plugin_model(), plugins=True)
    assert not trt.parsed.functions and trt.parsed.graph.node[-1].op_type == "AgentAttention"
    assert trt.network.taken_flags & 1 << 2


def test_without_plugins_the_definitions_stay(trt: FakeTensorRT, one_line: OneLine) -> None:
    with pytest.raises(EngineError) as caught:
        build_engine(plugin_model())
    assert "a/attn (AgentAttention)" in one_line(caught.value)
    assert len(trt.parsed.functions) == 1


# ------------------------------------------------------------------------------- refusals


def test_everything_that_the_parser_refuses_is_said(trt: FakeTensorRT, one_line: OneLine) -> None:
    trt.unsupported = {"MatMul", "Relu"}
    with pytest.raises(EngineError) as caught:
        build_engine(content(1))
    text = one_line(caught.value)
    assert "stem/Relu (Relu): TensorRT has no operation Relu" in text and "head/MatMul (MatMul)" in text


def test_what_is_no_model(trt: FakeTensorRT, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(EngineError):
        build_engine(b"\xff" * 64)
    with pytest.raises(BundleError) as caught:
        build_engine(b"\xff" * 64, plugins=True)
    assert one_line(caught.value) == "the model cannot be read as an ONNX file: export it again"
    with pytest.raises(BundleError, match=r"missing\.onnx cannot be read"):
        build_engine(tmp_path / "missing.onnx")


def test_a_build_that_fails_says_why(trt: FakeTensorRT, one_line: OneLine) -> None:
    trt.refuses = "build"
    with pytest.raises(EngineError) as caught:
        build_engine(content(1))
    text = one_line(caught.value)
    assert "could not find any implementation for node x" in text and "a warning" not in text


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ("engine", "cannot read the engine that it built: IRuntime::deserializeCudaEngine"),
        ("context", "cannot run the engine that it built: it does not say why"),
        ("profile", "TensorRT refuses the batches 1:4:8"),
    ],
)
def test_what_fails_around_a_build(trt: FakeTensorRT, one_line: OneLine, refuses: str, words: str) -> None:
    trt.refuses = refuses
    with pytest.raises(EngineError) as caught:
        build_engine(content(), profile=RANGE)
    assert words in one_line(caught.value) and caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("batch", "profile", "words"),
    [
        ("N", None, "the model takes any batch: say which"),
        (3, Profile(1, 1, 1), "--batch is 1, but the model takes a batch of 3"),
        (3, RANGE, "--batch is 1:4:8, but the model takes a batch of 3"),
    ],
)
def test_batches_that_do_not_fit(
    trt: FakeTensorRT, one_line: OneLine, batch: int | str, profile: Profile | None, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        build_engine(content(batch), profile=profile)
    assert words in one_line(caught.value)


def test_other_open_sides(trt: FakeTensorRT, one_line: OneLine) -> None:
    model = tiny_model("N", HALF)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(UsageError) as caught:
        build_engine(model.SerializeToString(), profile=RANGE)
    assert "the input 'images' is [-1, 3, -1, 8]: only the batch" in one_line(caught.value)


def test_no_gpu(trt: FakeTensorRT, gpu: FakeCuda) -> None:
    gpu.count = 0
    with pytest.raises(MissingDependencyError, match="--engine rtx"):
        build_engine(content(1))


# ------------------------------------------------------------------------------- the real builder


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(("batch", "dtype"), [(2, HALF), ("N", FLOAT)])
def test_a_real_builder_takes_every_call(
    monkeypatch: pytest.MonkeyPatch, gpu: FakeCuda, tmp_path: Path, batch: int | str, dtype: int
) -> None:
    """TensorRT for RTX, whose builder needs no GPU, in the place of full TensorRT; nothing runs what it built."""
    import tensorrt_rtx as real

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._real = real.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def create_builder_config(self) -> Any:
            config = self._real.create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(real.ComputeCapability.SM89, 0)
            return config

    module = ModuleType("tensorrt")
    vars(module).update({name: getattr(real, name) for name in dir(real) if not name.startswith("__")})
    vars(module).update(Builder=Builder, __version__="11.4.0.106")
    monkeypatch.setattr(engines, "require_tensorrt", lambda what: module)
    monkeypatch.setattr(engines, "_inspect", lambda *args: json.dumps({"Layers": [{}]}))
    path = tmp_path / "timing.cache"
    built = build_engine(content(batch, dtype), profile=RANGE if batch == "N" else None, timing_cache=path)
    assert len(built.plan) > 1000 and built.plan[:4] != b"fake"
    assert built.fingerprint.hardware_compatibility == "none"
    assert path.read_bytes() == built.timing_cache
    with pytest.raises(EngineError, match="TensorRT refuses the graph: "):
        build_engine(b"\xff" * 64)


# ------------------------------------------------------------------------------- a GPU


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "precision"), [(HALF, "fp16"), (FLOAT, "fp32")])
@pytest.mark.parametrize("batch", [1, "N"])
def test_on_a_gpu(tmp_path: Path, batch: int | str, dtype: int, precision: str) -> None:
    try:
        from debiexport.targets.tensorrt.version import require_tensorrt

        require_tensorrt("this test")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    path = tmp_path / "timing.cache"
    built: BuiltEngine = build_engine(content(batch, dtype), profile=None if batch == 1 else RANGE, timing_cache=path)
    require_precision(read_inspector(built.layers), precision)
    assert built.timing_cache == path.read_bytes()
