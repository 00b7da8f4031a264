"""Timing processes by turns, by the rules of `bench.runner`: warm-up until steady, then rounds of blocks.

The clock is in each process, and a block is one request to it, so that no message passes between two runs.
A process that fails is left out from then on; the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from debiexport.bench.runner import Measurement, Plan, Warmup
from debiexport.bench.statistics import quantile
from debiexport.progress import Progress, silent
from debiexport.runtimes.coreml_process import Times, UnitFailed

Blocks = tuple[npt.NDArray[np.float64], ...]


class TimedProcess(Protocol):
    """What is timed; see `CoreMLProcess`."""

    def time(self, runs: int) -> Times: ...


@dataclass(frozen=True, eq=False)
class Timed:
    """The latencies on one choice of compute units.

    Attributes:
        measurement: of the calls.
        native_blocks_ms: milliseconds inside of Core ML of the same runs; None if not known.
    """

    measurement: Measurement
    native_blocks_ms: Blocks | None


class _Track:
    """One process on its way through a measurement."""

    def __init__(self, process: TimedProcess) -> None:
        self.process, self.warmup = process, Warmup(0, 0.0, False, 0.0)
        self.blocks: list[Times] = []
        self.missing: tuple[str, ...] = ()

    def warm_up(self, plan: Plan) -> None:
        begun, runs, steady = time.monotonic(), 0, False
        means: list[float] = []
        while not steady and (time.monotonic() - begun < plan.warmup_max_s or not means):
            wanted = plan.warmup_window_runs
            if means:
                wanted = max(wanted, math.ceil(plan.warmup_window_s * 1e3 / max(means[-1], 1e-3)))
            means.append(float(self.process.time(wanted).wall_ns.mean()) / 1e6)
            runs += wanted
            last = means[-plan.warmup_windows :]
            spread = max(last) - min(last)
            steady = len(last) == plan.warmup_windows and spread <= plan.warmup_tolerance * (sum(last) / len(last))
        self.warmup = Warmup(runs, time.monotonic() - begun, steady, means[-1])

    def block(self, plan: Plan, dropped: int) -> None:
        runs = max(math.ceil(plan.block_s * 1e3 / max(self.warmup.run_ms, 1e-3)), plan.block_min_runs)
        times = self.process.time(dropped + runs)
        native = None if times.native_ns is None else times.native_ns[dropped:]
        self.blocks.append(Times(times.wall_ns[dropped:], native))
        self.missing = wanting([block.wall_ns for block in self.blocks], plan)

    def result(self) -> Timed:
        native = [block.native_ns / 1e6 for block in self.blocks if block.native_ns is not None]
        measurement = Measurement(self.warmup, tuple(block.wall_ns for block in self.blocks), self.missing)
        return Timed(measurement, tuple(native) if len(native) == len(self.blocks) else None)


def time_by_turns(
    processes: Mapping[str, TimedProcess], plan: Plan, progress: Progress = silent
) -> dict[str, Timed | UnitFailed]:
    """Warm each process up, then time them block by block in turn.

    Args:
        processes: by unit; each has its model, has run it, and has inputs to run it on.
        plan: when to begin, when to change and when to stop.
        progress: told of each warm-up.

    Returns:
        By unit: the latencies, or how the process failed.
    """
    tracks = {unit: _Track(process) for unit, process in processes.items()}
    found: dict[str, Timed | UnitFailed] = {}

    def each(step: Callable[[str, _Track], None]) -> None:
        for unit, track in list(tracks.items()):
            try:
                step(unit, track)
            except UnitFailed as failure:
                found[unit] = failure
                del tracks[unit]

    def warm_up(unit: str, track: _Track) -> None:
        track.warm_up(plan)
        progress(f"{unit}: warm-up of {track.warmup.runs} runs, {track.warmup.run_ms:.3g} ms each")

    each(warm_up)
    dropped = plan.dropped_runs if len(tracks) > 1 else 0
    begun, budget = time.monotonic(), plan.max_time_s * len(tracks)
    while tracks:
        each(lambda unit, track: track.block(plan, dropped))
        if not any(track.missing for track in tracks.values()) or time.monotonic() - begun >= budget:
            break
    return {**found, **{unit: track.result() for unit, track in tracks.items()}}


def wanting(blocks: list[npt.NDArray[np.int64]], plan: Plan) -> tuple[str, ...]:
    """What latencies in nanoseconds lack to have converged, in words; nothing if they have."""
    times = np.sort(np.concatenate(blocks)).astype(np.float64)
    seconds = float(times.sum()) / 1e9
    found = [] if len(times) >= plan.min_count else [f"{len(times)} of {plan.min_count} runs"]
    if seconds < plan.min_time_s:
        found.append(f"{seconds:.3g} of {plan.min_time_s:g} s")
    for p, limit in ((0.5, plan.p50_width), (0.99, plan.p99_width)):
        width = quantile(times, p).width
        if width > limit:
            told = f"{width:.1%} wide" if math.isfinite(width) else "open"
            found.append(f"the interval of p{p * 100:g} is {told}, wanted are {limit:.0%}")
    return tuple(found)
