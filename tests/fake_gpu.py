"""A GPU that is the CPU, and a CUDA driver in whose place a function computes; for the GPU benchmark."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import benchmark_path  # noqa: F401 - the modules of the benchmark are found through it
import pytest
import torch
from gpu_cases import AGENT, BROADCAST, REGION, TOKENS, Use
from gpu_device import Captured, why_no_gpu
from gpu_timing import KERNEL_PLAN
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from debiexport.plugins.agent_attention.sizes import Sizes as AgentSizes
from debiexport.plugins.region_attention.sizes import Sizes as RegionSizes

OneLine = Callable[[BaseException], str]

QUICK = replace(
    KERNEL_PLAN, min_time_s=1e-9, min_count=2, max_time_s=1e-6, warmup_max_s=1e-6, block_s=1e-9, block_min_runs=2
)
REGION_USE = Use("tiny", "stage1", TOKENS, REGION, 2, RegionSizes(1, (4, 6), (8, 4), 2, 16, 2, 3, "fp32"))
AGENT_USE = Use("tiny", "stage1", BROADCAST, AGENT, 1, AgentSizes(1, (5, 4), 6, 4, 16, 2, 5, "fp32"))

NO_GPU = why_no_gpu()
on_a_gpu = pytest.mark.skipif(NO_GPU is not None, reason=f"no NVIDIA GPU: {NO_GPU}")


class FakeGpu:
    """What `gpu_device.Gpu` offers, on the CPU: replaying work does it again."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.free_bytes, self.l2_bytes, self.stream = 2**30, 2**12, 7

    def synchronize(self) -> None:
        pass

    def capture(self, work: Callable[[], object]) -> Captured:
        return Captured(lambda: (work(), None)[1], work())

    def time_ns(self, replay: Callable[[], None]) -> int:
        begun = time.perf_counter_ns()
        replay()
        return time.perf_counter_ns() - begun

    def describe(self) -> dict[str, Any]:
        return {"name": "Fake GPU 9000", "cuda_of_torch": "13.0", "l2_bytes": self.l2_bytes}


class FakeDriver:
    """What `gpu_ptx` uses of `cuda.bindings.driver`.

    Args:
        shapes: shapes and types of the kernel's tensors, the output last.
        compute: the inputs -> the output.

    Attributes:
        launches: grid, block, shared memory and stream of every launch.
        loaded: modules that have not been given back.
        refused: the code that a function gives instead of doing anything, by its name.
    """

    CUstream = int

    def __init__(self, shapes: Sequence[tuple[tuple[int, ...], torch.dtype]], compute: Callable[..., Tensor]) -> None:
        self._shapes, self._compute = list(shapes), compute
        self.launches: list[tuple[Any, ...]] = []
        self.loaded: set[str] = set()
        self.refused: dict[str, int] = {}

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        assert image.endswith(b"\0")
        if "cuModuleLoadData" in self.refused:
            return self.refused["cuModuleLoadData"], None
        self.loaded.add(image.decode())
        return 0, image.decode()

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[Any, ...]:
        assert module in self.loaded
        return 0, name

    def cuModuleUnload(self, module: str) -> tuple[Any, ...]:
        self.loaded.remove(module)
        return (0,)

    def cuGetErrorName(self, code: int) -> tuple[Any, ...]:
        return 0, f"CUDA_ERROR_{code}".encode()

    def cuLaunchKernel(self, function: bytes, *numbers: int) -> tuple[Any, ...]:
        *launch, parameters, extra = numbers
        assert extra == 0
        addresses = (ctypes.c_void_p * len(self._shapes)).from_address(parameters)
        tensors = []
        for address, (shape, dtype) in zip(addresses, self._shapes, strict=True):
            pointer = ctypes.c_void_p.from_address(address).value
            size = torch.Size(shape).numel() * dtype.itemsize
            memory = (ctypes.c_uint8 * size).from_address(pointer)
            tensors.append(torch.frombuffer(memory, dtype=dtype).reshape(shape))
        tensors[-1].copy_(self._compute(*tensors[:-1]))
        self.launches.append((*launch,))
        return (0,)


class Immediate(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class OnOneDevice(TorchDispatchMode):
    """Refuses what a graph of one GPU cannot hold: tensors that are made elsewhere.

    On torch's device without numbers nothing can wait for a number either.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta", func
        return out
