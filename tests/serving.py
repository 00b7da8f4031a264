"""Models and servers that tests of serving can afford: a toy model in place of a bundle, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from debiexport.progress import Progress, silent
from debiexport.runtimes.base import Arrays
from debiexport.serve.batcher import Batcher
from debiexport.serve.limits import Limits
from debiexport.serve.listeners import bound_socket
from debiexport.serve.models import LoadedModel, Models
from debiexport.serve.options import ServeOptions
from debiexport.serve.requests import Signature
from debiexport.serve.server import Listening, Stop, run
from debiexport.serve.service import Service
from debiexport.serve.statistics import Statistics
from debiexport.signature import TensorSpec
from debiexport.triton.served import ONNX_PLATFORM, ServedModel

SIDES = (3, 4, 5)
ANY_PORTS = ServeOptions(port=0, grpc_port=0, metrics_port=0)


def toy_run(inputs: Arrays) -> Arrays:
    """Two numbers an image, which depend on that image alone: its sum and its first value."""
    images = inputs["images"].astype(np.float32).reshape(len(inputs["images"]), -1)
    return {"logits": np.stack([images.sum(1), images[:, 0]], 1)}


def toy_model(
    run: Callable[[Arrays], Arrays] = toy_run,
    *,
    name: str = "toy",
    version: int = 1,
    dtype: str = "float32",
    batch: int | None = None,
    max_batch: int = 4,
    queue_delay_us: int = 0,
    max_queue: int = 8,
    max_wait_us: int = 10_000_000,
) -> LoadedModel:
    """A model of images of `SIDES`."""
    inputs = (TensorSpec("images", dtype, (batch, *SIDES)),)
    outputs = (TensorSpec("logits", "float32", (batch, 2)),)
    served = ServedModel(
        name=name,
        platform=ONNX_PLATFORM,
        file=Path("model.onnx"),
        inputs=inputs,
        outputs=outputs,
        batch=batch,
        max_batch=0 if batch else max_batch,
        labels=("sum", "first"),
        interface={"network": name},
        provenance={"source": "a test"},
    )
    statistics = Statistics()
    most = batch or max_batch
    batcher = Batcher(
        name,
        run,
        max_images=most,
        queue_delay_us=queue_delay_us,
        max_queue=max_queue,
        max_wait_us=max_wait_us,
        statistics=statistics,
    )
    signature = Signature(name, inputs, outputs, most, fixed=batch is not None)
    return LoadedModel(served, version, signature, batcher, statistics)


def models_of(*models: LoadedModel) -> Models:
    loaded: dict[str, dict[int, LoadedModel]] = {}
    for model in models:
        loaded.setdefault(model.name, {})[model.version] = model
    return Models(loaded)


@contextmanager
def toy_service(*models: LoadedModel, limits: Limits | None = None) -> Iterator[Service]:
    """A service whose threads end with it."""
    service = Service(models_of(*models or [toy_model()]), ANY_PORTS, limits)
    try:
        yield service
    finally:
        service.models.close()


def images(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SIDES), dtype=np.float32)


class Gate:
    """A model that runs only when it is let, and tells what it was given."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[int] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.batches.append(len(inputs["images"]))
        self.entered.release()
        assert self.opened.acquire(timeout=20)
        return toy_run(inputs)

    def open(self, times: int = 1) -> None:
        self.opened.release(times)

    def wait(self) -> None:
        """Until a batch is being run."""
        assert self.entered.acquire(timeout=20)


@dataclass(frozen=True)
class RunningServer:
    """A server in a thread of its own."""

    listening: Listening
    service: Service
    loop: asyncio.AbstractEventLoop
    stop: Stop
    thread: threading.Thread

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.listening.grpc_port}"

    def tell_to_stop(self) -> None:
        """What a signal does."""
        self.loop.call_soon_threadsafe(self.stop.signalled)

    def connect(self, timeout_s: float = 20) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.listening.port), timeout_s)


@contextmanager
def running_server(
    *models: LoadedModel, limits: Limits | None = None, progress: Progress = silent
) -> Iterator[RunningServer]:
    """A server on loopback, on ports that are free."""
    loaded, started = models_of(*models or [toy_model()]), threading.Event()
    found: list[RunningServer] = []
    failed: list[BaseException] = []

    async def main() -> None:
        service, stop = Service(loaded, ANY_PORTS, limits), Stop()

        def ready(listening: Listening) -> None:
            loop, thread = asyncio.get_running_loop(), threading.current_thread()
            found.append(RunningServer(listening, service, loop, stop, thread))
            started.set()

        with ExitStack() as stack:
            sockets = [stack.enter_context(bound_socket("127.0.0.1", 0)) for _ in range(2)]
            await run(service, sockets, stop, ready, progress)

    def in_thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=in_thread, name="server", daemon=True)
    thread.start()
    try:
        assert started.wait(20)
        if failed:
            raise failed[0]
        yield found[0]
        assert not failed
    finally:
        if found and thread.is_alive():
            found[0].tell_to_stop()
            thread.join(5)
            if thread.is_alive():
                found[0].tell_to_stop()
        thread.join(20)
        loaded.close()
    assert not thread.is_alive()


def http_exchange(server: RunningServer, pieces: Sequence[bytes], timeout_s: float = 20) -> bytes:
    """Everything that comes back for what is sent on a connection of its own."""
    with server.connect(timeout_s) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received
