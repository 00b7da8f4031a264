"""The CUDA runtime as the tests have it: memory of the host, and work that is done only when somebody waits for it.

Names and parameters are those of `cuda.bindings.runtime`, which test_runtimes_cuda.py compares. A GPU's clock runs
beside the host's: work begins when it has been handed over and the work before it is done, and takes as long as its
kind takes. So a result that is read before it is waited for is garbage, and times are known exactly.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

UPLOAD_NS_PER_BYTE, DOWNLOAD_NS_PER_BYTE = 2, 3
COPY_CALL_NS, GRAPH_CALL_NS = 1_000, 4_000
GARBAGE = 0xCD


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorStubLibrary = 34
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess


@dataclass
class Work:
    """Something for the GPU: what it does, how long that takes, and when it was handed over."""

    do: Callable[[int], None]
    duration_ns: int
    handed_ns: int = 0


@dataclass
class _Stream:
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    spoilt: bool = False


class FakeCuda:
    """The module.

    Attributes:
        refused: error by the name of the function that returns it.
        count: number of GPUs.
        host_ns, gpu_ns: the clocks.
        calls: names of the functions called.
    """

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
    cudaStreamNonBlocking, cudaEventDefault = 1, 0

    def __init__(self, name: str = "NVIDIA Fake", capability: tuple[int, int] = (8, 9)) -> None:
        self.name, self.capability, self.count = name, capability, 1
        self.refused: dict[str, cudaError_t] = {}
        self.calls: list[str] = []
        self.host_ns = self.gpu_ns = 0
        self._device: dict[int, Any] = {}
        self._host: dict[int, Any] = {}
        self._objects: dict[int, Any] = {}
        self._next = 1

    def clock(self) -> int:
        """The host's clock in nanoseconds."""
        return self.host_ns

    @property
    def held(self) -> int:
        """How much has been taken and not given back."""
        return len(self._device) + len(self._host) + len(self._objects)

    def submit(self, stream: int, work: Work, call_ns: int) -> None:
        """Hand over work, as TensorRT does."""
        self.host_ns += call_ns
        queue = self._objects[int(stream)]
        if queue.captured is not None:
            queue.captured.append(work)
        else:
            queue.queue.append(Work(work.do, work.duration_ns, self.host_ns))

    # ---- errors and devices

    def cudaGetErrorName(self, error: Any) -> tuple[Any, bytes]:
        return OK, cudaError_t(error).name.encode()

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return OK, f"words of {int(error)}".encode()

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self._answer("cudaGetDeviceCount", lambda: self.count)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        major, minor = self.capability
        told = SimpleNamespace(name=self.name.encode() + b"\0\0", major=major, minor=minor)
        return self._answer("cudaGetDeviceProperties", lambda: told)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return self._answer("cudaDriverGetVersion", lambda: 13020)

    # ---- memory

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._answer("cudaMalloc", lambda: self._take(self._device, size))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._answer("cudaMallocHost", lambda: self._take(self._host, size))

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        return self._done("cudaFree", lambda: self._device.pop(devPtr))

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self._done("cudaFreeHost", lambda: self._host.pop(ptr))

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any, ...]:
        there = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        sides = (self._device, self._host) if there else (self._host, self._device)
        cost = UPLOAD_NS_PER_BYTE if there else DOWNLOAD_NS_PER_BYTE

        def begin() -> None:
            assert all(count <= len(side[at]) for side, at in zip(sides, (dst, src), strict=True))
            self.submit(stream, Work(lambda now: ctypes.memmove(dst, src, count), count * cost), COPY_CALL_NS)

        return self._done("cudaMemcpyAsync", begin)

    # ---- streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        return self._answer("cudaStreamCreateWithFlags", lambda: self._keep(_Stream()))

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._done("cudaStreamDestroy", lambda: self._objects.pop(stream))

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        held = self._objects[stream]
        if held.captured is not None:
            held.spoilt = True
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        return self._done("cudaStreamSynchronize", lambda: self._drain(held))

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaEventDefault
        return self._answer("cudaEventCreateWithFlags", lambda: self._keep({"ns": None}))

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        return self._done("cudaEventDestroy", lambda: self._objects.pop(event))

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        moment = self._objects[event]
        moment["ns"] = None
        return self._done("cudaEventRecord", lambda: self.submit(stream, Work(lambda now: moment.update(ns=now), 0), 0))

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        first, last = (self._objects[event]["ns"] for event in (start, end))
        if first is None or last is None:
            return cudaError_t.cudaErrorNotReady, None
        return self._answer("cudaEventElapsedTime", lambda: (last - first) / 1e6)

    # ---- graphs

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        return self._done("cudaStreamBeginCapture", lambda: setattr(self._objects[stream], "captured", []))

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        held = self._objects[stream]
        work, held.captured = held.captured, None
        if held.spoilt:
            held.spoilt = False
            return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        return self._answer("cudaStreamEndCapture", lambda: self._keep(work))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        return self._answer("cudaGraphInstantiate", lambda: self._keep(list(self._objects[graph])))

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Any, ...]:
        def begin() -> None:
            for i, work in enumerate(self._objects[graphExec]):
                self.submit(stream, work, 0 if i else GRAPH_CALL_NS)

        return self._done("cudaGraphLaunch", begin)

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return self._done("cudaGraphDestroy", lambda: self._objects.pop(graph))

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any, ...]:
        return self._done("cudaGraphExecDestroy", lambda: self._objects.pop(graphExec))

    # ---- inside

    def _answer(self, name: str, make: Callable[[], Any]) -> tuple[Any, ...]:
        self.calls.append(name)
        return (self.refused[name], None) if name in self.refused else (OK, make())

    def _done(self, name: str, do: Callable[[], Any]) -> tuple[Any, ...]:
        self.calls.append(name)
        if name in self.refused:
            return (self.refused[name],)
        try:
            do()
        except KeyError:
            return (cudaError_t.cudaErrorInvalidValue,)
        return (OK,)

    def _take(self, side: dict[int, Any], size: int) -> int:
        assert size > 0
        memory = (ctypes.c_uint8 * size)(*[GARBAGE] * size)
        side[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def _keep(self, thing: Any) -> int:
        self._next += 1
        self._objects[self._next] = thing
        return self._next

    def _drain(self, stream: _Stream) -> None:
        for work in stream.queue:
            self.gpu_ns = max(self.gpu_ns, work.handed_ns) + work.duration_ns
            work.do(self.gpu_ns)
        stream.queue.clear()
        self.host_ns = max(self.host_ns, self.gpu_ns)
