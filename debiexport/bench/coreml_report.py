"""The result of a measurement of Core ML, for programs and for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from debiexport.answer_parity import AnswerParity
from debiexport.bench.contention import Contention
from debiexport.bench.coreml_rounds import Blocks
from debiexport.bench.report import Ratio
from debiexport.bench.runner import Measurement, Plan
from debiexport.bench.statistics import Estimate, Summary, plain, quantile, summarise
from debiexport.environment import Environment
from debiexport.runtimes.compute_plan import DEVICES, NEURAL_ENGINE, ComputePlan
from debiexport.runtimes.mac import Mac, Power

FORMAT, FORMAT_VERSION = "debiexport-coreml-latency", 1
LISTED_OPERATIONS = 20
_WHAT = (
    "wall time of one predict of coremltools in a process per choice of compute units, and of that the time inside"
    " of Core ML (native); one caller"
)


@dataclass(frozen=True)
class Latency:
    """Latencies of one kind: the 10th percentile, and the rest of what is said of them."""

    p10: Estimate
    summary: Summary

    @classmethod
    def of_blocks(cls, blocks_ms: Sequence[Any]) -> Latency:
        """Of blocks of milliseconds."""
        samples = np.sort(np.concatenate(blocks_ms)).astype(np.float64)
        return cls(quantile(samples, 0.1), summarise(samples))

    def to_dict(self) -> dict[str, Any]:
        return {"p10_ms": self.p10.to_dict(), **self.summary.to_dict()}

    def __str__(self) -> str:
        return f"p10 {self.p10}, p50 {self.summary.p50}, p90 {self.summary.p90} ms"


@dataclass(frozen=True, eq=False)
class UnitReport:
    """Everything known of one choice of compute units.

    Attributes:
        unit: one of `macos.ALL_UNITS`.
        failure: why it was not timed, or not to the end; None if it was.
        load_ms: the first load, in a fresh process.
        first_ms: the first prediction, the call.
        parity: against the stored answers; None if it came to none.
        measurement: of the calls; None if they were not timed.
        wall, native: latencies of the calls, and inside of Core ML.
        native_blocks_ms: of the same runs as the measurement's.
        plan: where Core ML means to run each operation; None if it was not told, and then `plan_failure` says why.
        warnings: what makes the figures less than trustworthy.
    """

    unit: str
    failure: str | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    parity: AnswerParity | None = None
    measurement: Measurement | None = None
    wall: Latency | None = None
    native: Latency | None = None
    native_blocks_ms: Blocks | None = None
    plan: ComputePlan | None = None
    plan_failure: str | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self, *, samples: bool = False) -> dict[str, Any]:
        measured = self.measurement
        data: dict[str, Any] = {
            "unit": self.unit,
            "failure": self.failure,
            "load_ms": plain(self.load_ms),
            "first_predict_ms": plain(self.first_ms),
            "parity": None if self.parity is None else self.parity.to_dict(),
            "warmup": None if measured is None else measured.warmup.to_dict(),
            "wall": None if self.wall is None else self.wall.to_dict(),
            "native": None if self.native is None else self.native.to_dict(),
            "converged": measured is not None and measured.converged,
            "not_converged_because": [] if measured is None else list(measured.missing),
            "compute_plan": None if self.plan is None else self.plan.to_dict(),
            "no_compute_plan_because": self.plan_failure,
            "warnings": list(self.warnings),
        }
        if samples:
            native = self.native_blocks_ms
            data["samples_ns"] = None if measured is None else [block.tolist() for block in measured.blocks]
            data["native_samples_ms"] = None if native is None else [block.tolist() for block in native]
        return data

    def __str__(self) -> str:
        return f"{self.unit}: {self.failure or self.wall or 'not timed'}"


@dataclass(frozen=True, eq=False)
class CoreMLLatencyResult:
    """A measurement of one bundle in Core ML.

    Attributes:
        bundle: its folder.
        model_sha256, checkpoint_sha256: of the model's file and of the weights (None for random ones).
        precision, batch, function: of the model that was run; a function of None is the package's default.
        compile_ms: None where the package had been compiled before. Then the loads may not be cold either: macOS
            keeps what it made of a model for a device.
        units: in the order asked for.
        ratios: of each unit to the fastest.
        timing: when it began, changed and stopped.
        mac: chip and system.
        power_before, power_after: around the timing.
        contention: what else ran on the machine meanwhile.
        environment: the machine.
        coremltools: version.
        notes: what limits the whole result.
    """

    bundle: str
    model_sha256: str
    checkpoint_sha256: str | None
    precision: str
    batch: int
    function: str | None
    compile_ms: float | None
    units: tuple[UnitReport, ...]
    ratios: tuple[Ratio, ...]
    timing: Plan
    mac: Mac
    power_before: Power
    power_after: Power
    contention: Contention
    environment: Environment
    coremltools: str
    notes: tuple[str, ...] = ()

    @property
    def timed(self) -> tuple[UnitReport, ...]:
        """The units that were timed."""
        return tuple(unit for unit in self.units if unit.wall is not None)

    @property
    def failures(self) -> list[str]:
        """Why units were not timed."""
        return [f"{unit.unit}: {unit.failure}" for unit in self.units if unit.failure]

    @property
    def warnings(self) -> list[str]:
        """What makes the figures less than trustworthy."""
        found = [*self.notes, *(f"{unit.unit}: {warning}" for unit in self.units for warning in unit.warnings)]
        found += dict.fromkeys((*self.power_before.reasons, *self.power_after.reasons))
        if self.contention.verdict == "contended":
            found.append(f"CONTENDED, compare ratios only: {'; '.join(self.contention.reasons)}")
        return found

    def to_dict(self, *, samples: bool = False) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "measured": _WHAT,
            "bundle": self.bundle,
            "model_sha256": self.model_sha256,
            "checkpoint_sha256": self.checkpoint_sha256,
            "precision": self.precision,
            "batch": self.batch,
            "function": self.function,
            "compile_ms": plain(self.compile_ms),
            "units": [unit.to_dict(samples=samples) for unit in self.units],
            "ratios": [ratio.to_dict() for ratio in self.ratios],
            "failures": self.failures,
            "warnings": self.warnings,
            "mac": self.mac.to_dict(),
            "power": {"before": self.power_before.to_dict(), "after": self.power_after.to_dict()},
            "contention": self.contention.to_dict(),
            "plan": self.timing.to_dict(),
            "environment": self.environment.to_dict(),
            "coremltools": self.coremltools,
        }

    def report(self) -> str:
        """The whole result for people."""
        lines = [*_table(self.units), ""]
        for unit in self.units:
            lines += _placement(unit)
        compiled = "before" if self.compile_ms is None else f"in {self.compile_ms:.0f} ms"
        lines += [f"batch {self.batch}, {self.precision}; compiled {compiled}; coremltools {self.coremltools}"]
        lines += [f"milliseconds with 95 % intervals; {_WHAT}", f"machine: {self.mac}; {self.power_after}"]
        lines += [f"contention: {self.contention}", *map(str, self.ratios)]
        lines += [f"NOT TIMED: {failure}" for failure in self.failures]
        return "\n".join(lines + [f"WARNING: {warning}" for warning in self.warnings])

    def __str__(self) -> str:
        return "; ".join(map(str, self.units))


def _table(units: Sequence[UnitReport]) -> list[str]:
    """A row a figure, a column a unit."""

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    def estimates(kind: str, of: Callable[[UnitReport], Latency | None]) -> list[list[str]]:
        latencies = [of(unit) for unit in units]
        return [
            [f"{kind}p10", *("-" if latency is None else str(latency.p10) for latency in latencies)],
            [f"{kind}p50", *("-" if latency is None else str(latency.summary.p50) for latency in latencies)],
            [f"{kind}p90", *("-" if latency is None else str(latency.summary.p90) for latency in latencies)],
        ]

    rows: list[list[str]] = [["", *(u.unit for u in units)]]
    rows.append(["load", *(ms(u.load_ms) for u in units)])
    rows.append(["first predict", *(ms(u.first_ms) for u in units)])
    rows += estimates("", lambda unit: unit.wall) + estimates("native ", lambda unit: unit.native)
    rows.append(["runs", *("-" if u.wall is None else str(u.wall.summary.n) for u in units)])
    rows.append(["PSNR (dB)", *("-" if u.parity is None else f"{u.parity.outputs.psnr_db:.1f}" for u in units)])
    rows.append(["PSNR wanted", *("-" if u.parity is None else f"{u.parity.gate.wanted_db:.1f}" for u in units)])
    for device in DEVICES:
        rows.append([f"cost on {device}", *(_share(u.plan, device) for u in units)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _share(plan: ComputePlan | None, device: str) -> str:
    shares = None if plan is None else plan.cost_shares
    return "-" if shares is None else f"{shares[device]:.1%}"


def _placement(unit: UnitReport) -> list[str]:
    """The plan in a line, and where the Neural Engine may be used the operations that are not on it."""
    if unit.plan is None:
        return [f"{unit.unit}: no compute plan ({unit.plan_failure})"] if unit.plan_failure else []
    lines = [f"{unit.unit}: {unit.plan}"]
    off = unit.plan.off_neural_engine
    if unit.plan.counts[NEURAL_ENGINE]:
        lines += [f"  off the Neural Engine: {operation}" for operation in off[:LISTED_OPERATIONS]]
        lines += [f"  and {len(off) - LISTED_OPERATIONS} more"] if len(off) > LISTED_OPERATIONS else []
    return lines
