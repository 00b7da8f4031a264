"""The wrapper of the CUDA runtime over a fake one, and the fake's signatures against the real ones."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable

import numpy as np
import pytest
from fake_cuda import GARBAGE, FakeCuda, Work, cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
from tensorrt_signatures import signatures

from debiexport.errors import DebiexportError, MissingDependencyError
from debiexport.runtimes import cuda
from debiexport.runtimes.cuda import DeviceMemory, Event, Gpu, PinnedMemory, Stream, require_gpu

OneLine = Callable[[BaseException], str]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    made = FakeCuda()
    monkeypatch.setattr(cuda, "import_cuda_runtime", lambda: made)
    return made


# ------------------------------------------------------------------------------- the real one


def test_the_real_functions_have_these_parameters() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for name, member in vars(FakeCuda).items():
        if not name.startswith("cuda") or not inspect.isfunction(member):
            continue
        mine = list(inspect.signature(member).parameters)[1:]
        found = signatures(getattr(runtime, name).__doc__, name)
        assert [[p for p, _ in overload] for overload in found] == [mine], name
    for kind in (cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode):
        for each in kind:
            assert int(getattr(getattr(runtime, kind.__name__), each.name)) == each.value
    for name in ("cudaStreamNonBlocking", "cudaEventDefault"):
        assert getattr(runtime, name) == getattr(FakeCuda, name)
    properties = runtime.cudaDeviceProp()
    assert isinstance(properties.name, bytes) and properties.major == properties.minor == 0


def test_the_real_one_answers_without_a_gpu(one_line: OneLine) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU")
    assert cuda.import_cuda_runtime() is runtime
    with pytest.raises(MissingDependencyError) as caught:
        require_gpu("running an engine")
    assert "running an engine needs an NVIDIA GPU, and there is none that works here (" in one_line(caught.value)
    with pytest.raises(DebiexportError, match="CUDA refuses cudaMalloc: cudaError"):
        DeviceMemory(16)


def test_no_cuda_bindings(monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError) as caught:
        cuda.import_cuda_runtime()
    assert "cuda-bindings is not installed here" in one_line(caught.value)
    assert "pip install cuda-bindings" in str(caught.value)


# ------------------------------------------------------------------------------- devices and errors


def test_the_gpu_is_described(fake: FakeCuda) -> None:
    assert require_gpu("x") == Gpu("NVIDIA Fake", "8.9", "13.2")


@pytest.mark.parametrize("error", ["cudaErrorNoDevice", "cudaErrorInsufficientDriver"])
def test_no_gpu(fake: FakeCuda, error: str) -> None:
    fake.refused["cudaGetDeviceCount"] = cudaError_t[error]
    with pytest.raises(MissingDependencyError, match="needs an NVIDIA GPU"):
        require_gpu("x")
    fake.refused.clear()
    fake.count = 0
    with pytest.raises(MissingDependencyError, match="CUDA sees none"):
        require_gpu("x")


def test_a_gpu_that_does_not_answer_is_another_matter(fake: FakeCuda, one_line: OneLine) -> None:
    fake.refused["cudaGetDeviceCount"] = cudaError_t.cudaErrorLaunchFailure
    with pytest.raises(DebiexportError) as caught:
        require_gpu("x")
    assert not isinstance(caught.value, MissingDependencyError)
    assert one_line(caught.value).startswith("CUDA refuses cudaGetDeviceCount: cudaErrorLaunchFailure, words of 719;")


def test_too_little_memory(fake: FakeCuda, one_line: OneLine) -> None:
    fake.refused["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(DebiexportError) as caught:
        DeviceMemory(1 << 40)
    assert "cudaErrorMemoryAllocation" in one_line(caught.value) and "smaller batch" in str(caught.value)


REFUSABLE = (
    *("cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaMallocHost", "cudaMemcpyAsync"),
    *("cudaEventRecord", "cudaStreamSynchronize", "cudaEventElapsedTime", "cudaStreamBeginCapture"),
    *("cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaGraphDestroy", "cudaFree"),
)


@pytest.mark.parametrize("name", REFUSABLE)
def test_every_call_is_checked(fake: FakeCuda, name: str) -> None:
    fake.refused[name] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(DebiexportError, match=f"CUDA refuses {name}: cudaErrorIllegalAddress, words of 700"):
        everything()
    fake.refused.clear()
    everything()


def everything() -> None:
    """Each call once."""
    with Stream() as stream, Event() as first, Event() as last, DeviceMemory(8) as device, PinnedMemory(8) as host:
        first.record(stream)
        stream.upload(device, host, 8)
        stream.download(host, device, 8)
        last.record(stream)
        stream.synchronize()
        last.ms_since(first)
        with stream.capture(lambda: stream.upload(device, host, 8)) as graph:
            graph.launch(stream)
            stream.synchronize()


# ------------------------------------------------------------------------------- what is held


def test_everything_is_given_back(fake: FakeCuda) -> None:
    everything()
    assert fake.held == 0


def test_what_nothing_refers_to_is_given_back(fake: FakeCuda) -> None:
    held = [DeviceMemory(8), PinnedMemory(8), Stream(), Event()]
    assert fake.held == 4
    del held
    gc.collect()
    assert fake.held == 0


def test_closing_twice_is_harmless_and_use_after_it_is_not(fake: FakeCuda) -> None:
    memory = DeviceMemory(0)
    assert memory.handle == memory.value != 0
    memory.close()
    memory.close()
    assert fake.calls.count("cudaFree") == 1
    with pytest.raises(DebiexportError, match="DeviceMemory is used after it was closed"):
        _ = memory.handle


def test_an_error_on_its_way_is_not_replaced(fake: FakeCuda) -> None:
    memory = DeviceMemory(8)
    fake.refused["cudaFree"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(ZeroDivisionError), memory:
        _ = 1 // 0
    assert fake.calls.count("cudaFree") == 1


def test_pinned_memory_is_an_array(fake: FakeCuda, one_line: OneLine) -> None:
    memory = PinnedMemory(24)
    array = memory.array((2, 3), np.float32)
    array[...] = [[1, 2, 3], [4, 5, 6]]
    assert memory.array((6,), np.float32).tolist() == [1, 2, 3, 4, 5, 6]
    assert memory.array((0, 3), np.float16).shape == (0, 3)
    with pytest.raises(DebiexportError) as caught:
        memory.array((7,), np.float32)
    assert one_line(caught.value) == "(7,) of float32 takes 28 bytes, the buffer has 24"


# ------------------------------------------------------------------------------- streams, events, graphs


def test_copies_are_there_when_the_stream_was_waited_for(fake: FakeCuda) -> None:
    stream, device, there, back = Stream(), DeviceMemory(4), PinnedMemory(4), PinnedMemory(4)
    there.array((4,), np.uint8)[...] = [1, 2, 3, 4]
    stream.upload(device, there, 4)
    stream.download(back, device, 4)
    assert back.array((4,), np.uint8).tolist() == [GARBAGE] * 4
    stream.synchronize()
    assert back.array((4,), np.uint8).tolist() == [1, 2, 3, 4]


def test_events_measure_what_lies_between(fake: FakeCuda) -> None:
    stream, first, last = Stream(), Event(), Event()
    first.record(stream)
    fake.submit(stream.handle, Work(lambda now: None, 2_500_000), 0)
    last.record(stream)
    with pytest.raises(DebiexportError, match="cudaErrorNotReady"):
        last.ms_since(first)
    stream.synchronize()
    assert last.ms_since(first) == 2.5


def test_a_graph_does_again_what_was_captured(fake: FakeCuda) -> None:
    stream, device, there, back = Stream(), DeviceMemory(4), PinnedMemory(4), PinnedMemory(4)

    def work() -> None:
        stream.upload(device, there, 4)
        stream.download(back, device, 4)

    graph = stream.capture(work)
    stream.synchronize()
    assert back.array((4,), np.uint8).tolist() == [GARBAGE] * 4  # captured, not run
    for value in (5, 6):
        there.array((4,), np.uint8)[...] = value
        graph.launch(stream)
        stream.synchronize()
        assert back.array((4,), np.uint8).tolist() == [value] * 4
    assert "cudaGraphDestroy" in fake.calls


def test_work_that_cannot_be_captured(fake: FakeCuda) -> None:
    stream, device, host = Stream(), DeviceMemory(4), PinnedMemory(4)
    with pytest.raises(DebiexportError, match="cudaErrorStreamCaptureUnsupported"):
        stream.capture(stream.synchronize)
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: print(1 // 0))
    held = fake.held
    stream.upload(device, host, 4)  # the stream works again
    stream.synchronize()
    assert fake.held == held == 3
