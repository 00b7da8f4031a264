"""The server from its first to its last moment.

Told to stop, it first says that it is not ready and goes on for a moment, since requests may be on their way; then it
takes no more, finishes those in progress, and ends.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from debiexport.errors import Interrupted
from debiexport.progress import Progress, silent
from debiexport.serve.http_app import http_app
from debiexport.serve.listeners import FLUSH_S, add_grpc_port, bound_socket, grpc_server, http_server, is_loopback
from debiexport.serve.metrics import metrics_app
from debiexport.serve.models import load_models
from debiexport.serve.options import ServeOptions
from debiexport.serve.service import Service

GRACE_S = 0.2  # in which requests that were on their way still arrive
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and what it serves.

    Attributes:
        host: the address.
        port, grpc_port, metrics_port: those that were found where any would do.
        models: name and version of each.
    """

    host: str
    port: int
    grpc_port: int
    metrics_port: int
    models: tuple[tuple[str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        models = [{"name": name, "version": str(version)} for name, version in self.models]
        return {**vars(self), "models": models}

    def __str__(self) -> str:
        models = ", ".join(f"{name} version {version}" for name, version in self.models)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            f"serving {models}: http://{host}:{self.port}, gRPC {host}:{self.grpc_port},"
            f" metrics http://{host}:{self.metrics_port}/metrics"
        )


@dataclass(frozen=True)
class Stop:
    """Set when the server is to stop, and when it is to hurry."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def signalled(self) -> None:
        (self.hurry if self.asked.is_set() else self.asked).set()


def serve(
    bundles: Sequence[str | Path],
    options: ServeOptions | None = None,
    *,
    ready: Callable[[Listening], None] = lambda listening: None,
    progress: Progress = silent,
) -> None:
    """Serve bundles until SIGTERM or Ctrl-C, which are the ordinary end; to be called in the main thread.

    Args:
        bundles: folders of ONNX bundles, or NAME=BUNDLE; several of the same name are its versions 1, 2 and so on.
        options: None for the defaults.
        ready: told where it listens, once it takes requests.
        progress: told what is being loaded.

    Raises:
        UsageError: no bundles, or a port that is taken.
        BundleError: a bundle that is altered, lost parity, or is not for ONNX Runtime.
        Interrupted: a second signal, while requests were still in progress.
    """
    chosen = options or ServeOptions()
    with ExitStack() as stack:
        sockets = [stack.enter_context(bound_socket(chosen.host, port)) for port in (chosen.port, chosen.metrics_port)]
        if not is_loopback(chosen.host):
            progress(
                f"note: other machines can reach {chosen.host}, and no port is encrypted or asks who is there: let only"
                " those through that may use the models"
            )
        models = load_models(bundles, chosen, progress)
        stack.callback(models.close)

        async def until_signalled() -> bool:
            with _signals(Stop()) as stop:
                return await run(Service(models, chosen), sockets, stop, ready, progress)

        if not asyncio.run(until_signalled()):
            raise Interrupted("interrupted a second time: requests in progress were not answered")


async def run(
    service: Service,
    sockets: Sequence[socket.socket],
    stop: Stop,
    ready: Callable[[Listening], None] = lambda listening: None,
    progress: Progress = silent,
) -> bool:
    """Serve until told to stop; whether every request was answered.

    Args:
        service: what is served.
        sockets: bound, of HTTP and of the metrics.
        stop: says when.
        ready, progress: see `serve`.

    Raises:
        UsageError: gRPC's port is taken.
    """
    options = service.options
    calls = grpc_server(service)
    grpc_port = add_grpc_port(calls, options.host, options.grpc_port)
    await calls.start()
    servers = [http_server(http_app(service)), http_server(metrics_app(service.models))]
    serving = [asyncio.create_task(server.serve([each])) for server, each in zip(servers, sockets, strict=True)]
    while not all(server.started for server in servers):
        await asyncio.sleep(0.005)
    port, metrics_port = (each.getsockname()[1] for each in sockets)
    models = tuple((model.name, model.version) for model in service.models)
    try:
        ready(Listening(options.host, port, grpc_port, metrics_port, models))
        await stop.asked.wait()
        with suppress(OSError):  # whoever listened to us may have gone: no reason to drop requests
            progress(f"stopping: {service.admission.in_progress} requests in progress")
        answered = await _finish(service, stop.hurry)
    except BaseException:
        answered = False
        raise
    finally:
        for server in servers:
            server.should_exit, server.force_exit = True, not answered
        await asyncio.gather(calls.stop(FLUSH_S if answered else None), *serving)
    return answered


async def _finish(service: Service, hurry: asyncio.Event) -> bool:
    """Take the requests that are on their way and wait for the end of all; False if that is cut short."""
    service.admission.drain()
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait([hurried], timeout=GRACE_S)
    service.admission.close()
    idle = asyncio.create_task(service.admission.idle())
    await asyncio.wait([hurried, idle], return_when=asyncio.FIRST_COMPLETED)
    answered = idle.done()
    for task in (hurried, idle):
        task.cancel()
    return answered


@contextmanager
def _signals(stop: Stop) -> Iterator[Stop]:
    """Within it SIGTERM and Ctrl-C are told to `stop`; those that the process was started to ignore stay ignored."""
    loop = asyncio.get_running_loop()

    def signalled(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.signalled)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, signalled)
    try:
        yield stop
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
