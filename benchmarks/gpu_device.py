"""The GPU under the benchmark: whether there is one, what it is, what its memory can do, and how work on it is timed.

Work is captured as a CUDA graph and timed between two events. Each timed replay comes right after one that is not
timed, so that it is waiting in the queue before its turn and the host takes no part in the time.
"""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from debiexport.environment import UNKNOWN, describe_environment, package_versions
from debiexport.errors import DebiexportError, MissingDependencyError

ASSUMED_L2_BYTES = 128 * 2**20
_WARMUPS = 2  # before a capture: libraries take memory and choose algorithms in the first runs
_COPY_BYTES = 2 * 2**30
_COPY_RUNS = 21
_FLOOR_LAUNCHES = 256
_MESSAGE_CHARACTERS = 300
_PACKAGES = ("triton", "cuda-bindings", "onnx-graphsurgeon", "onnxruntime-gpu")


@dataclass(frozen=True, eq=False)
class Captured:
    """Work as a CUDA graph.

    Attributes:
        replay: do the work again, without waiting for it.
        kept: whatever the graph writes; memory that nothing refers to would be used again.
    """

    replay: Callable[[], None]
    kept: object


class Gpu:
    """The current GPU of torch."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())

    @property
    def free_bytes(self) -> int:
        """Of its memory; what torch keeps without using counts as free."""
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    @property
    def l2_bytes(self) -> int:
        """Of the cache that all multiprocessors share; `ASSUMED_L2_BYTES` where torch does not tell."""
        told = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0)
        return int(told) or ASSUMED_L2_BYTES

    @property
    def stream(self) -> int:
        """The current stream, as the driver takes it."""
        return int(torch.cuda.current_stream(self.device).cuda_stream)

    def synchronize(self) -> None:
        """Wait for all work; errors of the work are raised here."""
        torch.cuda.synchronize(self.device)

    def capture(self, work: Callable[[], object]) -> Captured:
        """Work as a graph.

        Raises:
            RuntimeError: it does what cannot be captured, such as waiting for the GPU.
        """
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARMUPS):
                work()
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with _uncollected(), torch.cuda.graph(graph, stream=stream):
            kept = work()
        return Captured(graph.replay, (graph, kept))

    def time_ns(self, replay: Callable[[], None]) -> int:
        """Nanoseconds that the GPU takes for a replay."""
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        replay()
        first.record()
        replay()
        last.record()
        last.synchronize()
        return round(float(first.elapsed_time(last)) * 1e6)

    def describe(self) -> dict[str, Any]:
        """What torch knows of it; "unknown" where it does not tell."""
        told = torch.cuda.get_device_properties(self.device)
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return {
            "name": torch.cuda.get_device_name(self.device),
            "compute_capability": f"{told.major}.{told.minor}",
            "memory_bytes": int(told.total_memory),
            "multiprocessors": int(told.multi_processor_count),
            "l2_bytes": int(getattr(told, "L2_cache_size", 0)) or UNKNOWN,
            "cuda_of_torch": torch.version.cuda or UNKNOWN,
            "cudnn": UNKNOWN if cudnn is None else str(cudnn),
        }


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector away: what it frees of earlier graphs is not allowed while another is captured."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def find_gpu() -> Gpu:
    """The GPU, ready for measuring: float32 means float32, nothing is rounded to 10 bits on the way.

    Raises:
        MissingDependencyError: torch sees no NVIDIA GPU, or there is no Triton.
    """
    reason = why_no_gpu()
    if reason is not None:
        raise MissingDependencyError(
            f"the GPU benchmark needs an NVIDIA GPU and a torch that sees it, and {reason}: look for the driver with"
            " nvidia-smi, and install a torch that is built for CUDA"
        )
    if find_spec("triton") is None:
        raise MissingDependencyError("the kernels need triton, not installed here: pip install '.[tensorrt]'")
    use_full_float32()
    return Gpu()


def why_no_gpu() -> str | None:
    """Why torch cannot compute on an NVIDIA GPU here; None if it can."""
    if torch.version.hip is not None:
        return f"this torch {torch.__version__} is built for AMD"
    if torch.version.cuda is None:
        return f"this torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, sees none"
    return None


def use_full_float32() -> None:
    """By default convolutions on a GPU round the fractions of float32 to 10 bits.

    The older ones of torch's settings: where the newer ones are used, exporting a network reads the older ones and
    fails.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some versions announce the newer ones
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def copy_bandwidth(gpu: Gpu) -> float:
    """Bytes a second that memory moves, read and written ones together, in a large copy inside the GPU."""
    size = min(_COPY_BYTES, gpu.free_bytes // 4)
    source = torch.ones(size, dtype=torch.uint8, device=gpu.device)
    target = torch.empty_like(source)
    spent = [gpu.time_ns(lambda: _copy(target, source)) for _ in range(_COPY_RUNS)]
    return 2 * size / (statistics.median(spent) / 1e9)


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def launch_floor_ns(gpu: Gpu) -> float:
    """Nanoseconds of a kernel that does next to nothing, launched behind another as all are here: in a graph."""
    number = torch.zeros(1, device=gpu.device)

    def work() -> None:
        for _ in range(_FLOOR_LAUNCHES):
            number.add_(1)

    captured = gpu.capture(work)
    return statistics.median(gpu.time_ns(captured.replay) for _ in range(_COPY_RUNS)) / _FLOOR_LAUNCHES


def describe_machine(gpu: Gpu) -> dict[str, Any]:
    """The machine, its software and its GPU, for the result file."""
    environment = describe_environment().to_dict()
    environment["packages"] |= package_versions(_PACKAGES)
    return {"environment": environment, "gpu": gpu.describe()}


def clock_state() -> dict[str, Any]:
    """What nvidia-smi tells of clocks and throttling now, and when that is, in seconds of the system's clock."""
    gpus = describe_environment().gpus
    return {"at": round(time.time()), "gpus": None if gpus is None else list(gpus)}


def is_alive(gpu: Gpu) -> bool:
    """Whether the GPU still computes: an illegal access makes everything fail from then on."""
    with suppress(RuntimeError):
        gpu.synchronize()
        return True
    return False


def in_a_line(error: Exception) -> str:
    """What an exception says; its kind too, unless it is one of ours, which say enough."""
    kind = "" if isinstance(error, DebiexportError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"[:_MESSAGE_CHARACTERS]
