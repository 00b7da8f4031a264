"""A typed ONNX model -> an engine of full TensorRT, on the GPU that it is to run on.

The precision is what the model's tensors say: no builder flag asks for another, and float32 is not rounded to TF32.
What came of it is in `BuiltEngine.layers`, the inspector's list of the layers that run.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from debiexport.atomic import StagedFile, staged_file
from debiexport.errors import BundleError, EngineError, MissingDependencyError, OutputError, UsageError
from debiexport.graph.functions import drop_functions
from debiexport.progress import Progress, silent
from debiexport.runtimes.cuda import require_gpu
from debiexport.targets.tensorrt.fingerprint import Fingerprint, fingerprint_of
from debiexport.targets.tensorrt.logger import Errors, make_logger
from debiexport.targets.tensorrt.profile import Profile, Shape
from debiexport.targets.tensorrt.rtx_errors import builder_refusals, explain, parser_refusals
from debiexport.targets.tensorrt.version import TENSORRT, require_tensorrt, version_of

UNCONDITIONALLY_TYPED = 11


@dataclass(frozen=True, eq=False)
class BuiltEngine:
    """An engine and what is known of it.

    Attributes:
        plan: the engine as TensorRT wrote it, nothing before or after it.
        timing_cache: how long kernels took, for the next build on this machine.
        layers: what the inspector says of it, JSON; see `inspector.read_inspector`.
        fingerprint: what it is bound to.
        profile: the batches that it takes.
        parse_s, build_s: seconds that reading the model and building took.
    """

    plan: bytes
    timing_cache: bytes
    layers: str
    fingerprint: Fingerprint
    profile: Profile
    parse_s: float
    build_s: float

    def __str__(self) -> str:
        size = len(self.plan) / 1e6
        return f"{self.fingerprint}, batch {self.profile}, {size:.1f} MB, built in {self.build_s:.1f} s"


def build_engine(
    model: bytes | Path,
    *,
    profile: Profile | None = None,
    timing_cache: Path | None = None,
    plugins: bool = False,
    workspace_bytes: int | None = None,
    progress: Progress = silent,
) -> BuiltEngine:
    """Build an engine.

    Args:
        model: a typed ONNX model or its file; only the first side of its inputs, the batch, may be open.
        profile: the batches that it is to take; None takes that of a model with a fixed one.
        timing_cache: read if it is there, and written; the same build is many times faster then.
        plugins: take the project's kernels for its own operators, whose definitions in the model are dropped.
        workspace_bytes: of the GPU's memory that a layer may use besides; None for all that there is.
        progress: called with a line at each step.

    Raises:
        MissingDependencyError: see `require_tensorrt`; or this TensorRT has no AOT plugins.
        UsageError: the profile does not fit the model, or the timing cache is of another TensorRT or GPU.
        OutputError: the timing cache cannot be written; said before the build.
        BundleError: the model is no ONNX file.
        EngineError: TensorRT refuses the model, or cannot build it.
    """
    trt = require_tensorrt("building an engine")
    content = _content(model, drop=plugins)
    logger, errors = make_logger(trt)
    if plugins:
        _register_plugins(trt)
    with nullcontext() if timing_cache is None else staged_file(timing_cache, "--timing-cache") as staged:
        builder = trt.Builder(logger)
        network = builder.create_network(_network_flags(trt, plugins=plugins))
        begun = time.monotonic()
        parser = trt.OnnxParser(network, logger)  # holds the weights: it has to be there until all is built
        if not parser.parse(content):
            raise EngineError(explain(parser_refusals(parser)))
        parse_s = time.monotonic() - begun
        progress(f"TensorRT {trt.__version__} has read the model: {network.num_layers} layers")

        config = _configuration(trt, builder, workspace_bytes)
        batches = _set_profile(builder, network, config, profile)
        cache = _set_timing_cache(config, timing_cache)

        begun = time.monotonic()
        memory = builder.build_serialized_network(network, config)
        build_s = time.monotonic() - begun
        if memory is None:
            raise EngineError(explain(builder_refusals(errors.lines)))
        plan, times = bytes(memory), bytes(cache.serialize())
        progress(f"built in {build_s:.1f} s: {len(plan) / 1e6:.1f} MB")
        if staged is not None:
            _write(staged, times)
    shapes = {name: batches.shapes(shape)[1] for name, shape in _inputs(network).items()}
    return BuiltEngine(
        plan,
        times,
        _inspect(trt, logger, errors, plan, shapes),
        fingerprint_of(TENSORRT, trt, require_gpu("an engine"), config.hardware_compatibility_level.name.lower()),
        batches,
        parse_s,
        build_s,
    )


def _content(model: bytes | Path, *, drop: bool) -> bytes:
    try:
        content = model if isinstance(model, bytes) else model.read_bytes()
        if not drop:
            return content
        dropped: bytes = drop_functions(onnx.load_model_from_string(content)).SerializeToString()
        return dropped
    except Exception as error:  # onnx raises protobuf's own errors
        name = "the model" if isinstance(model, bytes) else str(model)
        raise BundleError(f"{name} cannot be read as an ONNX file: export it again") from error


def _network_flags(trt: Any, *, plugins: bool) -> int:
    """Typed by the model's tensors: before TensorRT 11 that has to be asked for, since then the flag may be gone."""
    names = ["STRONGLY_TYPED"] if version_of(trt)[0] < UNCONDITIONALLY_TYPED else []
    names += ["PREFER_AOT_PYTHON_PLUGINS"] if plugins else []
    flags = 0
    for name in names:
        flag = getattr(getattr(trt, "NetworkDefinitionCreationFlag", None), name, None)
        if flag is None:
            raise MissingDependencyError(
                f"TensorRT {trt.__version__} has no {name}: install the newest 10 or 11, pip install --upgrade tensorrt"
            )
        flags |= 1 << int(flag)
    return flags


def _configuration(trt: Any, builder: Any, workspace_bytes: int | None) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells no types
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    return config


def _register_plugins(trt: Any) -> None:
    from debiexport.plugins.registration import register_plugins

    register_plugins(trt, import_module(f"{trt.__name__}.plugin"))


def _inputs(network: Any) -> dict[str, Shape]:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    return {tensor.name: tuple(tensor.shape) for tensor in tensors}


def _set_profile(builder: Any, network: Any, config: Any, profile: Profile | None) -> Profile:
    """Say which batches are to come; they are the model's own where it has a fixed one.

    Raises:
        UsageError: see `build_engine`.
    """
    inputs = _inputs(network)
    open_sides = {name: shape for name, shape in inputs.items() if -1 in shape}
    if not open_sides:
        batch = next(iter(inputs.values()))[0]
        if profile is not None and profile != Profile(batch, batch, batch):
            raise UsageError(
                f"--batch is {profile}, but the model takes a batch of {batch}: export it with --batch dynamic"
            )
        return Profile(batch, batch, batch)
    for name, shape in open_sides.items():
        if -1 in shape[1:]:
            raise UsageError(f"the input {name!r} is {list(shape)}: only the batch, its first side, may be open")
    if profile is None:
        raise UsageError("the model takes any batch: say which the engine is to take, --batch N or MIN:OPT:MAX")
    wanted = builder.create_optimization_profile()
    for name, shape in open_sides.items():
        wanted.set_shape(name, *profile.shapes(shape))
    if config.add_optimization_profile(wanted) < 0:
        raise EngineError(f"TensorRT refuses the batches {profile}: choose others with --batch")
    return profile


def _set_timing_cache(config: Any, path: Path | None) -> Any:
    """The cache that the build reads and fills.

    Raises:
        UsageError: the file cannot be read, or is not of this TensorRT and GPU.
    """
    try:
        content = b"" if path is None or not path.exists() else path.read_bytes()
    except OSError as error:
        raise UsageError(f"--timing-cache {path} cannot be read ({error.strerror}): name another file") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise UsageError(f"--timing-cache {path} is not of this TensorRT and this GPU: name another file, or remove it")
    return cache


def _write(staged: StagedFile, content: bytes) -> None:
    try:
        staged.path.write_bytes(content)
        staged.path.replace(staged.target)
    except OSError as error:
        raise OutputError(f"--timing-cache {staged.destination} cannot be written ({error.strerror})") from error


def _inspect(trt: Any, logger: Any, errors: Errors, plan: bytes, shapes: dict[str, Shape]) -> str:
    """The inspector's JSON; types of an engine for several batches are known for given shapes only."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT cannot read the engine that it built: {errors.told}; build it again")
    context = engine.create_execution_context()
    if context is None:
        raise EngineError(f"TensorRT cannot run the engine that it built: {errors.told}; choose a smaller --batch")
    for name, shape in shapes.items():
        context.set_input_shape(name, shape)
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
