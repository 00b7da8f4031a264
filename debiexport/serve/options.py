"""What a user may choose of a server."""

from __future__ import annotations

from dataclasses import dataclass

from debiexport.environment import check_threads
from debiexport.errors import UsageError

LARGEST_PORT = 65535
LONGEST_DELAY_US = 1_000_000
LONGEST_QUEUE = 65536
MAX_WAIT_US = 10_000_000
"""Microseconds after which a request that still waits is refused, as a server that is so far behind is overloaded."""


@dataclass(frozen=True)
class ServeOptions:
    """Where a server listens and how it batches.

    Attributes:
        host: address to listen on; the default can be reached from this machine only.
        port, grpc_port, metrics_port: 0 for any that is free.
        max_batch: images that a batch may have at most, where the model takes any number; None for 8.
        queue_delay_us: for how long a request waits for others to share a batch with, in microseconds.
        max_queue: requests of a model that may wait; one more is refused.
        threads: of ONNX Runtime for each model; None lets it choose.
        allow_unverified: serve bundles that lost parity too.

    Raises:
        UsageError: a value that makes no sense.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    max_batch: int | None = None
    queue_delay_us: int = 0
    max_queue: int = 64
    threads: int | None = None
    allow_unverified: bool = False

    def __post_init__(self) -> None:
        if not self.host.strip():
            raise UsageError("--host is empty: give an address of this machine, as 127.0.0.1")
        _within("--port", self.port, 0, LARGEST_PORT)
        _within("--grpc-port", self.grpc_port, 0, LARGEST_PORT)
        _within("--metrics-port", self.metrics_port, 0, LARGEST_PORT)
        _within("--queue-delay-us", self.queue_delay_us, 0, LONGEST_DELAY_US)
        _within("--max-queue", self.max_queue, 1, LONGEST_QUEUE)
        chosen = [port for port in (self.port, self.grpc_port, self.metrics_port) if port]
        if len(set(chosen)) < len(chosen):
            raise UsageError(
                f"--port {self.port}, --grpc-port {self.grpc_port} and --metrics-port {self.metrics_port} are not"
                " three: give each a port of its own"
            )
        check_threads(self.threads)


def _within(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{option} is {value}: give {least} to {most}")
