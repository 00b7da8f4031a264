"""What has happened to a model's requests, counted as Triton counts it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Duration:
    """How often something happened, and how long it took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns * count

    def to_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(frozen=True)
class BatchTiming:
    """Nanoseconds that a batch took: putting it together, running it, taking it apart."""

    input_ns: int
    infer_ns: int
    output_ns: int


@dataclass
class _OfBatchSize:
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class Statistics:
    """Counters of one version of a model. They may be added to and read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_inference_ms = 0
        self._inferences = 0
        self._executions = 0
        self._success, self._fail, self._queue = Duration(), Duration(), Duration()
        self._input, self._infer, self._output = Duration(), Duration(), Duration()
        self._failures: Counter[str] = Counter()
        self._batches: dict[int, _OfBatchSize] = {}

    def executed(self, images: int, queue_ns: Sequence[int], timing: BatchTiming) -> None:
        """A batch of so many images was run for requests that had waited so long.

        As in Triton every request is credited with the whole time of the batch that it was part of.
        """
        requests = len(queue_ns)
        with self._lock:
            self._last_inference_ms = time.time_ns() // 1_000_000
            self._inferences += images
            self._executions += 1
            for waited in queue_ns:
                self._queue.add(waited)
            self._input.add(timing.input_ns, requests)
            self._infer.add(timing.infer_ns, requests)
            self._output.add(timing.output_ns, requests)
            of_size = self._batches.setdefault(images, _OfBatchSize())
            of_size.compute_input.add(timing.input_ns)
            of_size.compute_infer.add(timing.infer_ns)
            of_size.compute_output.add(timing.output_ns)

    def succeeded(self, ns: int) -> None:
        """A request was answered after so long."""
        with self._lock:
            self._success.add(ns)

    def failed(self, ns: int, reason: str) -> None:
        """A request was refused or failed after so long."""
        with self._lock:
            self._fail.add(ns)
            self._failures[reason] += 1

    def to_dict(self) -> dict[str, Any]:
        """The protocol's statistics, but for the model's name and version."""
        with self._lock:
            nothing = Duration().to_dict()
            return {
                "last_inference": self._last_inference_ms,
                "inference_count": self._inferences,
                "execution_count": self._executions,
                "inference_stats": {
                    "success": self._success.to_dict(),
                    "fail": self._fail.to_dict(),
                    "queue": self._queue.to_dict(),
                    "compute_input": self._input.to_dict(),
                    "compute_infer": self._infer.to_dict(),
                    "compute_output": self._output.to_dict(),
                    "cache_hit": nothing,
                    "cache_miss": nothing,
                },
                "batch_stats": [
                    {"batch_size": size, **{part: duration.to_dict() for part, duration in vars(times).items()}}
                    for size, times in sorted(self._batches.items())
                ],
            }

    def failures(self) -> dict[str, int]:
        """Failed requests by their reason."""
        with self._lock:
            return dict(self._failures)
