"""The few calls of the CUDA runtime that running an engine takes, through `cuda.bindings.runtime`.

Buffers, streams, events and graphs are objects that give back what they hold: when closed, at the end of a `with`, or
when nothing refers to them any more. The code that every call returns is checked and said. All of it is on the first
visible GPU; `CUDA_VISIBLE_DEVICES` chooses which that is.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from debiexport.errors import DebiexportError, MissingDependencyError
from debiexport.runtimes.base import Array

INSTALL = "pip install cuda-bindings"
_SUCCESS = 0
# What cudaGetDeviceCount tells where there is no GPU, or a driver too old or missing.
_NO_GPU = ("cudaErrorNoDevice", "cudaErrorInsufficientDriver", "cudaErrorStubLibrary", "cudaErrorInitializationError")


def import_cuda_runtime() -> Any:
    """`cuda.bindings.runtime`, which needs no GPU to be imported.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        from cuda.bindings import runtime
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"the package cuda-bindings is not installed here ({error}): {INSTALL}") from error
    return runtime


def call(name: str, *arguments: Any) -> Any:
    """The result of a function of the CUDA runtime, None if it has none.

    Raises:
        MissingDependencyError: see `import_cuda_runtime`.
        DebiexportError: CUDA refuses; its name of the error and its words are in the message.
    """
    runtime = import_cuda_runtime()
    code, *results = getattr(runtime, name)(*arguments)
    if int(code) != _SUCCESS:
        known, words = _name_of(runtime, code), _text(runtime.cudaGetErrorString(code)[1])
        advice = "free memory of the GPU, or take a smaller batch"
        if known != "cudaErrorMemoryAllocation":
            advice = "look at the GPU with nvidia-smi, and start again"
        raise DebiexportError(f"CUDA refuses {name}: {known}, {words}; {advice}")
    return results[0] if results else None


def _name_of(runtime: Any, code: Any) -> str:
    return _text(runtime.cudaGetErrorName(code)[1])


def _text(told: bytes | str) -> str:
    return told.decode(errors="replace") if isinstance(told, bytes) else str(told)


@dataclass(frozen=True)
class Gpu:
    """The first visible GPU.

    Attributes:
        name: such as "NVIDIA L4".
        compute_capability: such as "8.9".
        driver: the newest CUDA that the driver serves, such as "13.0".
    """

    name: str
    compute_capability: str
    driver: str


def require_gpu(what: str) -> Gpu:
    """The GPU, or a refusal where there is none.

    Args:
        what: needs it, as the beginning of a sentence.

    Raises:
        MissingDependencyError: no cuda-bindings, no driver that it can work with, or no GPU.
        DebiexportError: the GPU does not answer.
    """
    runtime = import_cuda_runtime()
    code, count = runtime.cudaGetDeviceCount()
    if int(code) != _SUCCESS and _name_of(runtime, code) not in _NO_GPU:
        call("cudaGetDeviceCount")  # says what it is
    if int(code) != _SUCCESS or not count:
        told = "CUDA sees none" if int(code) == _SUCCESS else _text(runtime.cudaGetErrorString(code)[1])
        raise MissingDependencyError(
            f"{what} needs an NVIDIA GPU, and there is none that works here ({told}): run it on a machine with one, or"
            " look for the driver with nvidia-smi"
        )
    properties = call("cudaGetDeviceProperties", 0)
    driver = int(call("cudaDriverGetVersion"))
    return Gpu(
        _text(properties.name).rstrip("\0"),
        f"{properties.major}.{properties.minor}",
        f"{driver // 1000}.{driver % 1000 // 10}",
    )


class _Held:
    """Something of CUDA's that is given back once."""

    def __init__(self, value: Any, release: str) -> None:
        self._value, self._release = value, release
        # The collector has nobody to tell of an error, so what this returns is not looked at. At the end of the
        # interpreter CUDA itself may be gone, and the system takes back everything.
        self._finalizer = weakref.finalize(self, getattr(import_cuda_runtime(), release), value)
        self._finalizer.atexit = False

    @property
    def value(self) -> Any:
        """The handle or address, while it is held."""
        if not self._finalizer.alive:
            raise DebiexportError(f"{type(self).__name__} is used after it was closed: open it again")
        return self._value

    @property
    def handle(self) -> int:
        """The same as a number, as TensorRT takes it."""
        return int(self.value)

    def close(self) -> None:
        """Give it back; a second time is harmless.

        Raises:
            DebiexportError: CUDA refuses, which tells of an error of earlier work too.
        """
        if self._finalizer.detach() is not None:
            call(self._release, self._value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:  # the error on its way tells more than that of giving back
            self._finalizer()


class DeviceMemory(_Held):
    """Memory of the GPU.

    Args:
        nbytes: its size; at least one byte is taken.

    Raises:
        DebiexportError: there is not so much.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        super().__init__(call("cudaMalloc", max(nbytes, 1)), "cudaFree")


class PinnedMemory(_Held):
    """Memory of the host that the GPU copies from and to by itself, while the host goes on.

    Args:
        nbytes: its size; at least one byte is taken.

    Raises:
        DebiexportError: there is not so much.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        super().__init__(call("cudaMallocHost", max(nbytes, 1)), "cudaFreeHost")

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Its beginning as an array, which must not be used after this is closed.

        Raises:
            DebiexportError: it is smaller than that.
        """
        wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if wanted > self.nbytes:
            raise DebiexportError(f"{shape} of {np.dtype(dtype)} takes {wanted} bytes, the buffer has {self.nbytes}")
        raw: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * max(wanted, 1)).from_address(self.handle))
        view: Array = raw[:wanted].view(dtype).reshape(shape)
        return view


class Stream(_Held):
    """A queue of work on the GPU; it does not wait for the default one."""

    def __init__(self) -> None:
        super().__init__(
            call("cudaStreamCreateWithFlags", import_cuda_runtime().cudaStreamNonBlocking), "cudaStreamDestroy"
        )

    def upload(self, target: DeviceMemory, source: PinnedMemory, nbytes: int) -> None:
        """Begin to copy to the GPU."""
        kind = import_cuda_runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", target.value, source.value, nbytes, kind, self.value)

    def download(self, target: PinnedMemory, source: DeviceMemory, nbytes: int) -> None:
        """Begin to copy from the GPU."""
        kind = import_cuda_runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", target.value, source.value, nbytes, kind, self.value)

    def synchronize(self) -> None:
        """Wait until all of it is done; errors of the work are raised here."""
        call("cudaStreamSynchronize", self.value)

    def capture(self, work: Callable[[], None]) -> Graph:
        """What `work` puts into this stream, as a graph; none of it runs.

        Raises:
            DebiexportError: `work` does what cannot be captured, such as waiting or taking memory.
        """
        # Of this thread alone: what other threads do with CUDA meanwhile is their business.
        mode = import_cuda_runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self.value, mode)
        try:
            work()
        except BaseException:
            _end_failed_capture(self.value)
            raise
        captured = _CapturedGraph(call("cudaStreamEndCapture", self.value), "cudaGraphDestroy")
        with captured:
            return Graph(call("cudaGraphInstantiate", captured.value, 0), "cudaGraphExecDestroy")


def _end_failed_capture(stream: Any) -> None:
    """Leave the capture: without this, nothing can be done with the stream any more."""
    runtime = import_cuda_runtime()
    code, graph = runtime.cudaStreamEndCapture(stream)
    if int(code) == _SUCCESS:
        runtime.cudaGraphDestroy(graph)


class _CapturedGraph(_Held):
    """What was captured, before it is made ready to run."""


class Graph(_Held):
    """Work that was captured, ready to run; see `Stream.capture`."""

    def launch(self, stream: Stream) -> None:
        """Begin to run it."""
        call("cudaGraphLaunch", self.value, stream.value)


class Event(_Held):
    """A moment in a stream's work."""

    def __init__(self) -> None:
        super().__init__(call("cudaEventCreateWithFlags", import_cuda_runtime().cudaEventDefault), "cudaEventDestroy")

    def record(self, stream: Stream) -> None:
        """Put the moment behind the work that the stream has."""
        call("cudaEventRecord", self.value, stream.value)

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds from an earlier moment to this one; both must have passed."""
        return float(call("cudaEventElapsedTime", earlier.value, self.value))
