"""How a model is served: the two presets, and the choices that they are starting points for."""

from __future__ import annotations

from dataclasses import dataclass

from debiexport.errors import UsageError

DEFAULT_THREADS = 4
"""Threads of one instance on a CPU. A number, not "as many as there are cores": in a container ONNX Runtime sees the
cores of the whole machine, and starts a thread for each however few the container may use."""


@dataclass(frozen=True)
class Preset:
    """What is waited for, and for how long.

    Attributes:
        name: that options name it by.
        queue_delay_us: microseconds that a request may wait for others to share a batch with.
        timeout_us: microseconds after which a request that still waits is refused.
        max_queue: requests that may wait; one more is refused at once, so overload costs no memory.
    """

    name: str
    queue_delay_us: int
    timeout_us: int
    max_queue: int


# Without a delay requests still share a batch: those that arrive while the instances are busy.
LATENCY = Preset("latency", queue_delay_us=0, timeout_us=1_000_000, max_queue=64)
THROUGHPUT = Preset("throughput", queue_delay_us=2_000, timeout_us=10_000_000, max_queue=256)
PRESETS = {preset.name: preset for preset in (LATENCY, THROUGHPUT)}


@dataclass(frozen=True)
class ServingOptions:
    """Everything about serving a model that is not the model's own. None is what was not asked for.

    Attributes:
        preset: where the figures of the queue come from that are None here; None for `LATENCY`.
        instances: copies of the model that run at once, on each GPU where it runs on GPUs; None for 1.
        threads: of one instance of an ONNX model on a CPU; None for `DEFAULT_THREADS`.
        gpu: run ONNX models on GPUs; plans always are. None for a CPU.
        queue_delay_us, timeout_us, max_queue: see `Preset`.

    Raises:
        UsageError: a number out of its range.
    """

    preset: Preset | None = None
    instances: int | None = None
    threads: int | None = None
    gpu: bool | None = None
    queue_delay_us: int | None = None
    timeout_us: int | None = None
    max_queue: int | None = None

    def __post_init__(self) -> None:
        _check("--instances", self.copies, 1, 64)
        _check("--threads", self.cpu_threads, 1, 1024)
        _check("--queue-delay-us", self.delay_us, 0, 10_000_000)
        _check("the queue's timeout in microseconds", self.waits_us, 1, 3_600_000_000)
        _check("--max-queue", self.queue, 1, 1_000_000)

    @property
    def copies(self) -> int:
        """Instances of the model."""
        return 1 if self.instances is None else self.instances

    @property
    def cpu_threads(self) -> int:
        """Threads of one instance on a CPU."""
        return DEFAULT_THREADS if self.threads is None else self.threads

    @property
    def delay_us(self) -> int:
        """Microseconds that a request may wait for others."""
        return self._base.queue_delay_us if self.queue_delay_us is None else self.queue_delay_us

    @property
    def waits_us(self) -> int:
        """Microseconds after which a request that still waits is refused."""
        return self._base.timeout_us if self.timeout_us is None else self.timeout_us

    @property
    def queue(self) -> int:
        """Requests that may wait."""
        return self._base.max_queue if self.max_queue is None else self.max_queue

    @property
    def _base(self) -> Preset:
        return self.preset or LATENCY


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"--preset is {name!r}: give {' or '.join(PRESETS)}")
    return PRESETS[name]


def _check(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{what} is {value}: give {least} to {most}")
