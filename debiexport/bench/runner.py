"""Timing several subjects in one process so that they can be compared.

Each is warmed up until it is steady. Then they take turns in blocks of runs, never run by run: a model finds
the caches full of another's weights. The first runs of every block, which pay for that, are dropped. It goes
on until each has been timed long enough, often enough, and the intervals of its p50 and p99 are narrow; or
until a limit, and then the result says that it has not converged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from debiexport.bench.statistics import quantile
from debiexport.errors import UsageError
from debiexport.progress import Progress, silent

MAX_TIME_FACTOR = 20.0
MAX_SECONDS = 86_400

Clock = Callable[[], int]  # nanoseconds


class Timed(Protocol):
    """Something to time."""

    @property
    def name(self) -> str: ...

    @property
    def pool(self) -> Sequence[Any]:
        """Inputs, used in turn."""
        ...

    @property
    def run(self) -> Callable[[Any], object]:
        """Compute one result; it is there when this returns."""
        ...


@dataclass(frozen=True)
class Plan:
    """When to begin, when to change and when to stop.

    Attributes:
        min_time_s, min_count: each subject is timed for at least this long and this often; 400 runs, as the
            95 % interval of a p99 has no upper end below 368.
        max_time_s: stop after this long a subject, even if not converged.
        p50_width, p99_width: an interval is narrow if its width over the value is at most this.
        warmup_window_runs, warmup_window_s: a window of the warm-up has at least so many runs and lasts so long.
        warmup_windows, warmup_tolerance: steady are so many windows in a row whose means differ by at most this.
        warmup_max_s: the warm-up of a subject ends here, even if not steady.
        block_s, block_min_runs: a block lasts about so long, and has at least so many runs.
        dropped_runs: at the beginning of each block, where there are several subjects.
    """

    min_time_s: float = 3.0
    min_count: int = 400
    max_time_s: float = 60.0
    p50_width: float = 0.04
    p99_width: float = 0.20
    warmup_window_runs: int = 5
    warmup_window_s: float = 0.1
    warmup_windows: int = 3
    warmup_tolerance: float = 0.05
    warmup_max_s: float = 10.0
    block_s: float = 0.25
    block_min_runs: int = 10
    dropped_runs: int = 3

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Warmup:
    """How a subject became steady, or did not.

    Attributes:
        runs: before the first timed one.
        seconds: that they took.
        steady: whether the means of the last windows agreed.
        run_ms: mean of the last window.
    """

    runs: int
    seconds: float
    steady: bool
    run_ms: float

    def to_dict(self) -> dict[str, Any]:
        return {"runs": self.runs, "seconds": round(self.seconds, 3), "steady": self.steady}


@dataclass(frozen=True, eq=False)
class Measurement:
    """The latencies of one subject.

    Attributes:
        warmup: before it.
        blocks: of latencies in nanoseconds; block i of every subject was run in the same round.
        missing: what it lacks to have converged; empty if it has.
    """

    warmup: Warmup
    blocks: tuple[npt.NDArray[np.int64], ...]
    missing: tuple[str, ...]

    @property
    def converged(self) -> bool:
        return not self.missing

    @property
    def blocks_ms(self) -> list[npt.NDArray[np.float64]]:
        return [block / 1e6 for block in self.blocks]


def measure(
    subjects: Sequence[Timed],
    plan: Plan,
    clock: Clock = time.perf_counter_ns,
    progress: Progress = silent,
) -> list[Measurement]:
    """Warm up, then time all subjects block by block in turn.

    Args:
        subjects: loaded; each has been run once.
        plan: when to change and when to stop.
        clock: nanoseconds.
        progress: told of each phase.
    """
    tracks = [_Track(subject, plan, clock) for subject in subjects]
    for track in tracks:
        track.warm_up()
        progress(f"{track.subject.name}: warm-up of {track.warmup.runs} runs, {track.warmup.run_ms:.3g} ms each")
    dropped = plan.dropped_runs if len(tracks) > 1 else 0
    budget = plan.max_time_s * len(tracks)
    begun = clock()
    while True:
        for track in tracks:
            track.block(dropped)
        missing = [track.missing() for track in tracks]
        if not any(missing) or (clock() - begun) / 1e9 >= budget:
            break
    return [Measurement(t.warmup, tuple(t.blocks), tuple(m)) for t, m in zip(tracks, missing, strict=True)]


class _Track:
    """One subject on its way through a measurement."""

    def __init__(self, subject: Timed, plan: Plan, clock: Clock) -> None:
        self.subject, self._plan, self._clock = subject, plan, clock
        self.blocks: list[npt.NDArray[np.int64]] = []
        self.warmup = Warmup(0, 0.0, False, 0.0)
        self._next = 0

    def _once(self) -> int:
        """Nanoseconds of one run on the next input of the pool."""
        run, pool = self.subject.run, self.subject.pool
        value = pool[self._next % len(pool)]
        self._next += 1
        begun = self._clock()
        run(value)
        return self._clock() - begun

    def warm_up(self) -> None:
        plan, begun = self._plan, self._clock()
        means: list[float] = []
        runs, steady, seconds = 0, False, 0.0
        while not steady and (seconds < plan.warmup_max_s or not means):
            spent: list[int] = []
            while len(spent) < plan.warmup_window_runs or sum(spent) < plan.warmup_window_s * 1e9:
                spent.append(self._once())
                seconds = (self._clock() - begun) / 1e9
                if seconds >= plan.warmup_max_s:
                    break
            runs += len(spent)
            means.append(sum(spent) / len(spent))
            last = means[-plan.warmup_windows :]
            spread = max(last) - min(last)
            steady = len(last) == plan.warmup_windows and spread <= plan.warmup_tolerance * (sum(last) / len(last))
        self.warmup = Warmup(runs, seconds, steady, means[-1] / 1e6)

    def block(self, dropped: int) -> None:
        plan = self._plan
        runs = max(math.ceil(plan.block_s * 1e3 / max(self.warmup.run_ms, 1e-3)), plan.block_min_runs)
        for _ in range(dropped):
            self._once()
        self.blocks.append(np.array([self._once() for _ in range(runs)], dtype=np.int64))

    def missing(self) -> list[str]:
        """What is still wanting, in words; the intervals are looked at last, as that costs time."""
        plan = self._plan
        count = sum(map(len, self.blocks))
        seconds = sum(int(block.sum()) for block in self.blocks) / 1e9
        found = []
        if count < plan.min_count:
            found.append(f"{count} of {plan.min_count} runs")
        if seconds < plan.min_time_s:
            found.append(f"{seconds:.3g} of {plan.min_time_s:g} s")
        if found and count < plan.min_count:
            return found
        ordered = np.sort(np.concatenate(self.blocks)).astype(np.float64)
        for p, limit in ((0.5, plan.p50_width), (0.99, plan.p99_width)):
            width = quantile(ordered, p).width
            if width > limit:
                told = f"{width:.1%} wide" if math.isfinite(width) else "open"
                found.append(f"the interval of p{p * 100:g} is {told}, wanted are {limit:.0%}")
        return found


def with_times(plan: Plan, min_time: float | None, max_time: float | None) -> Plan:
    """The plan with other times, in seconds; without `max_time` it is a multiple of `min_time`.

    Raises:
        UsageError: they are no numbers of seconds, or contradict each other.
    """
    for option, seconds in (("--min-time", min_time), ("--max-time", max_time)):
        if seconds is not None and not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
            raise UsageError(f"{option} is {seconds:g}: give seconds above 0, at most {MAX_SECONDS}")
    if min_time is not None:
        plan = replace(plan, min_time_s=min_time, max_time_s=MAX_TIME_FACTOR * min_time)
    if max_time is not None:
        plan = replace(plan, max_time_s=max_time)
    if plan.max_time_s < plan.min_time_s:
        raise UsageError(f"--max-time is {plan.max_time_s:g}: give at least --min-time, {plan.min_time_s:g}")
    return plan
