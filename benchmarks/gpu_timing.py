"""Subjects on a GPU, timed in turn by the rules of `debiexport.bench.runner`.

The runner's clock is one that shows only what has been measured: the GPU's own time between two events for what is
replayed as a graph, and the host's for what is launched operation by operation. So both can be compared in one run.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_device import Captured, Gpu

from debiexport.bench.runner import Measurement, Plan, measure
from debiexport.bench.statistics import paired_ratio, plain, summarise
from debiexport.bench.subjects import Subject

KERNEL_PLAN = Plan(
    min_time_s=0.02, min_count=40, max_time_s=0.4, p99_width=math.inf,
    warmup_window_runs=3, warmup_window_s=0.002, warmup_max_s=0.3, block_s=0.002, block_min_runs=4, dropped_runs=1,
)  # fmt: skip
NETWORK_PLAN = Plan(
    min_time_s=0.3, min_count=30, max_time_s=2.0, p99_width=math.inf,
    warmup_window_runs=3, warmup_window_s=0.02, warmup_max_s=2.0, block_s=0.05, block_min_runs=5, dropped_runs=2,
)  # fmt: skip
RESAMPLES = 500
_SUMMARY = ("n", "min_ms", "max_ms", "mean_ms", "cv", "p50_ms", "p90_ms")


class Timeline:
    """A clock in nanoseconds that only measured time moves."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


class Timings:
    """Subjects of one comparison, collected and then timed in turn.

    Args:
        gpu: that they run on.
        plan: of the measurement.
    """

    def __init__(self, gpu: Gpu, plan: Plan) -> None:
        self._gpu, self._plan, self._timeline = gpu, plan, Timeline()
        self._subjects: list[Subject] = []
        self._launches: dict[str, int] = {}
        self._measured: dict[str, Measurement] = {}

    def add_graph(self, name: str, captured: Captured, launches: int = 1) -> None:
        """Work on the GPU's clock; `launches` of the same are in the graph."""

        def run(_: Any) -> None:
            self._timeline.ns += self._gpu.time_ns(captured.replay)

        self._add(name, run, launches)

    def add_direct(self, name: str, work: Callable[[], object]) -> None:
        """Work on the host's clock, launched operation by operation and waited for."""

        def run(_: Any) -> None:
            begun = time.perf_counter_ns()
            work()
            self._gpu.synchronize()
            self._timeline.ns += time.perf_counter_ns() - begun

        self._add(name, run, 1)

    def _add(self, name: str, run: Callable[[Any], None], launches: int) -> None:
        run(None)
        self._subjects.append(Subject(name, run, (None,)))  # type: ignore[arg-type]
        self._launches[name] = launches

    def measure(self) -> dict[str, dict[str, Any]]:
        """Latencies by name, in milliseconds of one launch."""
        if not self._subjects:
            return {}
        measured = measure(self._subjects, self._plan, self._timeline)
        self._measured = {s.name: m for s, m in zip(self._subjects, measured, strict=True)}
        return {name: self._row(name) for name in self._measured}

    def p50_ms(self, name: str) -> float:
        """Of a measured subject."""
        return float(np.median(np.concatenate(self._blocks(name))))

    def ratio(self, above: str, below: str) -> dict[str, float | None]:
        """How many times as long one takes as the other, with its interval."""
        return paired_ratio(self._blocks(above), self._blocks(below), RESAMPLES).to_dict()

    def close(self) -> None:
        """Give back what the subjects hold."""
        self._subjects.clear()
        gc.collect()

    def _blocks(self, name: str) -> list[npt.NDArray[np.float64]]:
        return [block / self._launches[name] for block in self._measured[name].blocks_ms]

    def _row(self, name: str) -> dict[str, Any]:
        told = summarise(np.concatenate(self._blocks(name))).to_dict()
        measurement = self._measured[name]
        return {
            **{key: told[key] for key in _SUMMARY},
            "launches_per_sample": self._launches[name],
            "steady": measurement.warmup.steady,
            "converged": measurement.converged,
        }


def plan_dict(plan: Plan) -> dict[str, float | None]:
    """A plan for a JSON file; what is without limit is null."""
    return {name: plain(value) for name, value in plan.to_dict().items()}
