"""TensorRT as the tests have it: its builder, parser, inspector and runtime, computing with the project's evaluator.

Names and parameters are those of the real bindings, which test_targets_tensorrt_version.py compares. It behaves where
a mistake would go unnoticed: before version 11 a network that is not made strongly typed becomes float32, TF32 is on
unless cleared, an engine for a range of batches tells its types only for given shapes, a timing cache belongs to one
GPU, and the work of an inference is done when the stream is waited for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import onnx
from fake_cuda import FakeCuda
from fake_tensorrt_engine import MAGIC, EngineInspector, ICudaEngine, IExecutionContext, Runtime, tensors_of
from fake_tensorrt_types import (
    ENUMS,
    BuilderFlag,
    ErrorCode,
    HardwareCompatibilityLevel,
    IHostMemory,
    ILogger,
    ITensor,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
)


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.taken_flags, self.model = flags, onnx.ModelProto()

    @property
    def num_layers(self) -> int:
        return len(self.model.graph.node)

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, index: int) -> ITensor:
        name, shape, _ = tensors_of(self.model.graph.input)[index]
        return ITensor(name, shape)


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.content)


class IBuilderConfig:
    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.flags_set: set[BuilderFlag] = {BuilderFlag.TF32}
        self.profiles: list[IOptimizationProfile] = []
        self.limits: dict[MemoryPoolType, int] = {}
        self.cache: ITimingCache | None = None

    def set_flag(self, flag: Any) -> None:
        raise AssertionError(f"no flag asks for a precision: {flag}")

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags_set.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return -1 if self._module.refuses == "profile" else len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"cache of "):
            return None
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        mine = f"cache of {self._module.cuda.name};".encode()
        if cache.content and not ignore_mismatch and not cache.content.startswith(mine):
            return False
        self.cache = cache
        cache.content = cache.content or mine
        return True


class Builder:
    def __init__(self, logger: Any) -> None:
        assert logger.ready
        self._logger = logger

    @property
    def module(self) -> FakeTensorRT:
        raise NotImplementedError

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        self.module.network = INetworkDefinition(flags)
        return self.module.network

    def create_builder_config(self) -> IBuilderConfig:
        self.module.config = IBuilderConfig(self.module)
        return self.module.config

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        module = self.module
        if module.refuses == "build":
            self._logger.log(ILogger.Severity.WARNING, "a warning that explains nothing")
            self._logger.log(ILogger.Severity.ERROR, "[builder] could not find any\nimplementation for node x")
            return None
        if config.cache is not None:
            config.cache.content += b"kernel;"
        asked = network.taken_flags >> int(NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1
        plan = {
            "version": module.__version__,
            "model": base64.b64encode(network.model.SerializeToString()).decode(),
            "shapes": config.profiles[0].shapes if config.profiles else {},
            "detailed": config.profiling_verbosity is ProfilingVerbosity.DETAILED,
            "tf32": BuilderFlag.TF32 in config.flags_set,
            "typed": bool(asked) or int(module.__version__.split(".")[0]) >= 11,
        }
        return IHostMemory(MAGIC + json.dumps(plan).encode())


class ParserError:
    def __init__(self, desc: str, node: str, operator: str) -> None:
        self._told = desc, node, operator

    def desc(self) -> str:
        return self._told[0]

    def node_name(self) -> str:
        return self._told[1]

    def node_operator(self) -> str:
        return self._told[2]

    def code(self) -> ErrorCode:
        return ErrorCode.UNSUPPORTED_NODE


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._errors = network, list[ParserError]()

    @property
    def module(self) -> FakeTensorRT:
        raise NotImplementedError

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            self._network.model = onnx.load_model_from_string(model)
        except Exception:
            self._errors.append(ParserError("Failed to parse the ONNX model.", "", ""))
            return False
        self.module.parsed = self._network.model
        for node in self._network.model.graph.node:
            known = not node.domain or node.op_type in self.module.plugin.registered
            if not known or node.op_type in self.module.unsupported:
                self._errors.append(ParserError("false", node.name, node.op_type))
        return not self._errors


class FakeTensorRT(ModuleType):
    """The module.

    Args:
        cuda: where its engines run.
        version: of TensorRT.

    Attributes:
        refuses: the call that fails: "build", "engine", "context", "profile", "shape", "address" or "run".
        unsupported: operators that the parser does not know.
        spoils: whether the outputs for a batch are wrong.
        layers: what the inspector says instead of what is.
        deserialized: how many engines it was given.
        network, config, parsed: of the last build.
    """

    network: INetworkDefinition
    config: IBuilderConfig
    parsed: onnx.ModelProto

    def __init__(self, cuda: FakeCuda, version: str = "11.4.0.106", name: str = "tensorrt") -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # torch asks for it
        self.__version__, self.cuda = version, cuda
        self.refuses, self.deserialized = "", 0
        self.unsupported: set[str] = set()
        self.spoils: Callable[[int], bool] = lambda batch: False
        self.layers: str | None = None
        self.plugin = ModuleType(f"{name}.plugin")
        self.plugin.registered = set()  # type: ignore[attr-defined]
        for kind in (ILogger, IHostMemory, ITensor, INetworkDefinition, IOptimizationProfile, ITimingCache):
            setattr(self, kind.__name__, kind)
        for kind in (IBuilderConfig, ParserError, ICudaEngine, IExecutionContext, EngineInspector):
            setattr(self, kind.__name__, kind)
        for kind in (Builder, OnnxParser, Runtime):
            setattr(self, kind.__name__, type(kind.__name__, (kind,), {"module": self}))
        for members in ENUMS:
            setattr(self, members.__name__, members)


CLASSES = (
    *(Builder, OnnxParser, ParserError, Runtime, ILogger, IHostMemory, ITensor, INetworkDefinition),
    *(IOptimizationProfile, ITimingCache, IBuilderConfig, ICudaEngine, IExecutionContext, EngineInspector),
)
# What a fake has for the tests alone.
OWN = {"module", "evaluator"}
