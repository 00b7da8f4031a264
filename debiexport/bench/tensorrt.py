"""How long an engine takes on the GPU, in parts: the way there, handing over the work, computing, the way back.

Launched kernel by kernel, and as one CUDA graph; the two take turns by the rules of `bench.runner`. The parts on the
GPU are between CUDA events, the others on the host's clock. Unlike trtexec from version 11 on, which leaves the
transfers out, always takes a graph and waits by spinning, all of it is in the figures, and each figure says what it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from debiexport.bench.contention import Contention, compare
from debiexport.bench.counters import take_snapshot
from debiexport.bench.report import Numerics, Ratio, subject_warnings
from debiexport.bench.runner import Clock, Measurement, Plan, measure
from debiexport.bench.statistics import Summary, paired_ratio, plain, summarise
from debiexport.environment import Environment, describe_environment, usable_cpus
from debiexport.errors import DebiexportError, UsageError
from debiexport.progress import Progress, silent
from debiexport.runtimes.base import Array
from debiexport.runtimes.cuda import Event
from debiexport.runtimes.tensorrt import TensorRTRuntime

FORMAT, FORMAT_VERSION = "debiexport-tensorrt-latency", 1
DIRECT, GRAPH = "kernel by kernel", "CUDA graph"
PARTS = {
    "wall": "host clock, from inputs in page-locked memory to outputs in page-locked memory, waited for by blocking",
    "enqueue": "host clock, handing the work of one inference to the GPU",
    "upload": "CUDA events around the copies of the inputs to the GPU",
    "compute": "CUDA events around the inference",
    "download": "CUDA events around the copies of the outputs back",
}
# Between its events the GPU waits for work that is handed over slowly, so the two can be about equal and no more.
ENQUEUE_SHARE = 0.8
CLOCK_CHANGE = 0.05
_NOT_THROTTLED = ("Not Active", "0x0000000000000000", "0x0000000000000001")  # the last one: it is idle

Inputs = Mapping[str, Array]
Samples = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LaunchReport:
    """The latencies of one way to launch an engine.

    Attributes:
        launch: `DIRECT` or `GRAPH`.
        measurement: of the wall time, with the inputs' way into page-locked memory.
        parts: by name, see `PARTS`; of the same runs.
        warnings: what makes the figures less than trustworthy.
    """

    launch: str
    measurement: Measurement
    parts: dict[str, Summary]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "launch": self.launch,
            "warmup": self.measurement.warmup.to_dict(),
            **{name: summary.to_dict() for name, summary in self.parts.items()},
            "converged": self.measurement.converged,
            "not_converged_because": list(self.measurement.missing),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        return f"{self.launch}: " + ", ".join(f"{name} p50 {part.p50} ms" for name, part in self.parts.items())


@dataclass(frozen=True, eq=False)
class EngineLatency:
    """A measurement of one engine.

    Attributes:
        engine: its file's name.
        fingerprint: TensorRT and GPU, in words.
        batch: images per run.
        uploaded_bytes, downloaded_bytes: of every run.
        launches: kernel by kernel, then as a graph where that can be had.
        no_graph_because: why there is no graph; None if there is, or none was wanted.
        ratio: of the wall times without and with a graph.
        numerics: whether the engine computes the source model; None if the caller did not compare.
        plan: when the measurement began, changed and stopped.
        contention: what else ran on the host meanwhile.
        environment: the machine at the end.
        gpus_before: as in `environment`, at the beginning.
    """

    engine: str
    fingerprint: str
    batch: int
    uploaded_bytes: int
    downloaded_bytes: int
    launches: tuple[LaunchReport, ...]
    no_graph_because: str | None
    ratio: Ratio | None
    numerics: Numerics | None
    plan: Plan
    contention: Contention
    environment: Environment
    gpus_before: tuple[dict[str, str], ...] | None

    @property
    def images_per_s(self) -> float:
        """Throughput of the faster launch at concurrency 1, transfers included."""
        return self.batch * 1e3 / min(report.parts["wall"].mean_ms for report in self.launches)

    @property
    def warnings(self) -> list[str]:
        """Every warning, with the launch that it is of."""
        found = [f"{report.launch}: {warning}" for report in self.launches for warning in report.warnings]
        if self.no_graph_because is not None:
            found.append(f"no {GRAPH}: {self.no_graph_because}")
        if self.contention.verdict == "contended":
            found.append(f"CONTENDED, compare ratios only: {'; '.join(self.contention.reasons)}")
        return [*found, *clock_warnings(self.gpus_before, self.environment.gpus)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "measured": PARTS,
            "engine": self.engine,
            "fingerprint": self.fingerprint,
            "batch": self.batch,
            "transfers": {"uploaded_bytes": self.uploaded_bytes, "downloaded_bytes": self.downloaded_bytes},
            "launches": [report.to_dict() for report in self.launches],
            "no_graph_because": self.no_graph_because,
            "ratio": None if self.ratio is None else self.ratio.to_dict(),
            "throughput": {"images_per_s": plain(self.images_per_s), "concurrency": 1},
            "numerics": None if self.numerics is None else self.numerics.to_dict(),
            "warnings": self.warnings,
            "plan": self.plan.to_dict(),
            "contention": self.contention.to_dict(),
            "environment": self.environment.to_dict(),
            "gpus_before": None if self.gpus_before is None else list(self.gpus_before),
        }

    def __str__(self) -> str:
        return "\n".join([*map(str, self.launches), *([] if self.ratio is None else [str(self.ratio)])])


def measure_engine(
    runtime: TensorRTRuntime,
    pool: Sequence[Inputs],
    plan: Plan | None = None,
    *,
    cuda_graph: bool = True,
    numerics: Numerics | None = None,
    clock: Clock = time.perf_counter_ns,
    progress: Progress = silent,
) -> EngineLatency:
    """Measure an engine.

    Args:
        runtime: the loaded engine; nobody else may use it meanwhile.
        pool: inputs of one batch, used in turn.
        plan: when to begin, when to change and when to stop.
        cuda_graph: measure with a graph too; what keeps an engine from it is said in the result.
        numerics: what is known of the engine's numbers, to stand beside the figures.
        clock: nanoseconds of the host.
        progress: called with a line at each step.

    Raises:
        UsageError: the pool is empty or of several batches, or see `TensorRTRuntime.write`.
        DebiexportError: TensorRT or CUDA fails.
    """
    plan = plan or Plan()
    if len(shapes := {tuple((name, array.shape) for name, array in sorted(inputs.items())) for inputs in pool}) != 1:
        raise UsageError(f"the inputs to measure with are of {len(shapes)} forms: give at least one, all of one batch")
    runtime.run(pool[0])  # before a graph can be captured, the engine must have run with this batch
    tracks, failure = [_Launch(DIRECT, runtime, pool, runtime.enqueue, clock)], None
    if cuda_graph:
        try:
            graph = runtime.stream.capture(runtime.enqueue)
        except DebiexportError as error:
            failure = str(error)
        else:
            tracks.append(_Launch(GRAPH, runtime, pool, lambda: graph.launch(runtime.stream), clock))
            tracks[-1].run(pool[0])
            tracks[-1].rows.clear()

    gpus_before, before = describe_environment().gpus, take_snapshot()
    measurements = measure(tracks, plan, clock, progress)
    contention = compare(before, take_snapshot(), usable_cpus())
    dropped = plan.dropped_runs if len(tracks) > 1 else 0
    blocks = [track.blocks(m, dropped) for track, m in zip(tracks, measurements, strict=True)]
    uploaded, downloaded = runtime.transferred_bytes
    wall = [[block[:, 0] for block in one] for one in blocks]
    return EngineLatency(
        runtime.path.name,
        str(runtime.fingerprint),
        runtime.written_batch,
        uploaded,
        downloaded,
        tuple(_report(t.name, m, one) for t, m, one in zip(tracks, measurements, blocks, strict=True)),
        failure,
        Ratio(DIRECT, GRAPH, paired_ratio(wall[0], wall[1]), len(wall[0])) if len(tracks) > 1 else None,
        numerics,
        plan,
        contention,
        describe_environment(),
        gpus_before,
    )


class _Launch:
    """One way to launch an engine, as `bench.runner` times it; every run leaves its parts in milliseconds."""

    def __init__(
        self,
        name: str,
        runtime: TensorRTRuntime,
        pool: Sequence[Inputs],
        launch: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.name, self.pool = name, pool
        self.rows: list[tuple[float, ...]] = []
        self._runtime, self._launch, self._clock = runtime, launch, clock
        self._events = tuple(Event() for _ in range(4))

    def run(self, inputs: Inputs) -> None:
        """One run; the outputs are there when this returns."""
        runtime, stream, clock = self._runtime, self._runtime.stream, self._clock
        first, uploaded, computed, last = self._events
        runtime.write(inputs)
        begun = clock()
        first.record(stream)
        runtime.upload()
        uploaded.record(stream)
        before = clock()
        self._launch()
        enqueued = clock() - before
        computed.record(stream)
        runtime.download()
        last.record(stream)
        stream.synchronize()
        spent = clock() - begun
        on_gpu = (uploaded.ms_since(first), computed.ms_since(uploaded), last.ms_since(computed))
        self.rows.append((spent / 1e6, enqueued / 1e6, *on_gpu))

    def blocks(self, measurement: Measurement, dropped: int) -> list[Samples]:
        """The parts of the measured runs (runs x parts), block by block: the warm-up and the dropped ones go."""
        rows, at, found = np.array(self.rows, np.float64), measurement.warmup.runs, []
        for block in measurement.blocks:
            found.append(rows[at + dropped : at + dropped + len(block)])
            at += dropped + len(block)
        return found


def _report(name: str, measurement: Measurement, blocks: Sequence[Samples]) -> LaunchReport:
    rows = np.concatenate(blocks)
    parts = {part: summarise(rows[:, i]) for i, part in enumerate(PARTS)}
    warnings = list(subject_warnings(measurement, parts["wall"]))
    if parts["enqueue"].p50.value > ENQUEUE_SHARE * parts["compute"].p50.value:
        warnings.append("enqueue-bound: the GPU waits for the host to hand the work over")
    return LaunchReport(name, measurement, parts, tuple(warnings))


def clock_warnings(
    before: tuple[dict[str, str], ...] | None, after: tuple[dict[str, str], ...] | None
) -> tuple[str, ...]:
    """What nvidia-smi tells against the figures: of the first GPU, at the beginning and the end."""
    if not before or not after:
        return ("the GPU's clocks are unknown: nvidia-smi tells nothing here",)
    found = []
    speeds = [gpu.get("clocks.sm", "").split() for gpu in (before[0], after[0])]
    if all(words and words[0].isdigit() for words in speeds):
        low, high = sorted(int(words[0]) for words in speeds)
        if high - low > CLOCK_CHANGE * high:
            found.append(f"the GPU's clock is not fixed, {low} to {high} MHz: fix it with nvidia-smi --lock-gpu-clocks")
    reasons = after[0].get("clocks_throttle_reasons.active", "")
    if reasons and reasons not in _NOT_THROTTLED:
        found.append(f"the GPU runs slower than it can, throttle reasons {reasons}: see nvidia-smi -q -d PERFORMANCE")
    return tuple(found)
