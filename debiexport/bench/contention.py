"""What else wanted the CPUs while something was timed: evidence, not an excuse.

Read before and after: the pressure on the CPUs (the share of time in which some process waited for one),
the time that the hypervisor gave to others, the load, and how often this process was made to wait. What a
system does not tell is None, and the verdict "unknown" if neither pressure nor steal can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from debiexport.bench.counters import Snapshot
from debiexport.bench.statistics import plain

PRESSURE_LIMIT = 0.10  # share of the time
STEAL_LIMIT = 0.02  # share of all CPU time
LOAD_LIMIT = 1.5  # processes that want to run, per usable CPU
SWITCH_LIMIT = 200.0  # involuntary context switches a second


@dataclass(frozen=True)
class Contention:
    """What happened between two snapshots.

    Attributes:
        seconds: between them.
        pressure: share of that time in which some process waited for a CPU.
        steal: share of the CPU time that the hypervisor gave to others.
        load_before, load_after: processes that want to run; this one is among them.
        switches_per_s: involuntary context switches of this process.
        reasons: every limit that was passed.
    """

    seconds: float
    pressure: float | None
    steal: float | None
    load_before: float | None
    load_after: float | None
    switches_per_s: float | None
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """ "contended", "quiet", or "unknown" where the system does not tell."""
        if self.reasons:
            return "contended"
        return "unknown" if self.pressure is None and self.steal is None else "quiet"

    def to_dict(self) -> dict[str, Any]:
        figures = ("seconds", "pressure", "steal", "load_before", "load_after", "switches_per_s")
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            **{name: plain(getattr(self, name)) for name in figures},
            "limits": {
                "pressure": PRESSURE_LIMIT,
                "steal": STEAL_LIMIT,
                "load_per_cpu": LOAD_LIMIT,
                "switches_per_s": SWITCH_LIMIT,
            },
        }

    def __str__(self) -> str:
        figures = (
            ("CPU pressure", self.pressure, "{:.1%}"),
            ("steal", self.steal, "{:.1%}"),
            ("load before", self.load_before, "{:.2f}"),
            ("after", self.load_after, "{:.2f}"),
            ("involuntary switches", self.switches_per_s, "{:.0f}/s"),
        )
        told = ", ".join(f"{name} {'unknown' if v is None else form.format(v)}" for name, v, form in figures)
        return f"{self.verdict} ({told})"


def compare(before: Snapshot, after: Snapshot, cpus: int | None) -> Contention:
    """What happened between two snapshots on so many usable CPUs."""
    seconds = max(after.seconds - before.seconds, 1e-9)
    pressure = steal = switches = None
    if before.pressure_s is not None and after.pressure_s is not None:
        pressure = (after.pressure_s - before.pressure_s) / seconds
    if before.steal_ticks is not None and after.steal_ticks is not None:
        assert before.total_ticks is not None and after.total_ticks is not None
        ticks = after.total_ticks - before.total_ticks
        steal = (after.steal_ticks - before.steal_ticks) / ticks if ticks > 0 else 0.0
    if before.switches is not None and after.switches is not None:
        switches = (after.switches - before.switches) / seconds
    load = max((load for load in (before.load, after.load) if load is not None), default=None)
    limits = (
        ("CPU pressure", pressure, PRESSURE_LIMIT, "{:.1%}"),
        ("steal time", steal, STEAL_LIMIT, "{:.1%}"),
        ("load per CPU", load / cpus if load is not None and cpus else None, LOAD_LIMIT, "{:.2f}"),
        ("involuntary context switches a second", switches, SWITCH_LIMIT, "{:.0f}"),
    )
    reasons = tuple(
        f"{name} {form.format(value)}, the limit is {form.format(limit)}"
        for name, value, limit, form in limits
        if value is not None and value > limit
    )
    return Contention(seconds, pressure, steal, before.load, after.load, switches, reasons)
