"""The result of a measurement, for programs and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from debiexport.bench.contention import Contention
from debiexport.bench.runner import Measurement, Plan
from debiexport.bench.statistics import Estimate, Summary, plain
from debiexport.bench.tables import explanations, plots, profile_lines, table
from debiexport.environment import Environment
from debiexport.parity_report import ParityReport

if TYPE_CHECKING:
    from debiexport.bench.memory import Memory
    from debiexport.bench.profile import Profile

FORMAT, FORMAT_VERSION = "debiexport-latency", 1
CV_LIMIT = 0.10
_WHAT = (
    "wall time of one call on the host, inputs and outputs in host memory; one caller, so throughput is that of"
    " concurrency 1"
)


@dataclass(frozen=True)
class Numerics:
    """Whether a subject computes the source model, beside its latency.

    Attributes:
        method: "reference" (recomputed, routes forced), "golden" (stored answers), "itself" (the source model).
        relative_error: the largest, see `metrics`.
        tolerance: what it may be.
        top1_agreement: share of images with the same best class, the smallest of all batch sizes; None without classes.
        near_ties: rows of routes that differ within rounding.
        notes: what limits the judgement.
    """

    method: str
    relative_error: float
    tolerance: float
    top1_agreement: float | None
    near_ties: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of_report(cls, report: ParityReport, notes: Sequence[str] = ()) -> Numerics:
        """The figures of a report in which parity holds."""
        agreements = [o.top1_agreement for o in report.outputs if o.top1_agreement is not None]
        return cls(
            report.method,
            max(output.relative_error for output in report.outputs),
            report.tolerance,
            min(agreements) if agreements else None,
            sum(block.near_ties for block in report.blocks),
            (*notes, *report.notes),
        )

    @classmethod
    def of_the_reference(cls) -> Numerics:
        """The source model agrees with itself."""
        return cls("itself", 0.0, 0.0, 1.0, 0)

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "relative_error": plain(self.relative_error),
            "tolerance": plain(self.tolerance),
            "top1_agreement": plain(self.top1_agreement),
            "near_ties": self.near_ties,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class SubjectReport:
    """Everything known of one subject.

    Attributes:
        name: unique in the measurement.
        kind: "bundle", "plain", "eager" or "openvino".
        model_sha256: of the ONNX file; None for "eager".
        checkpoint_sha256: of the weights; None for random ones.
        precision, batch, input_shape, input_dtype: what it was run with.
        runtime, options: what ran it.
        load_ms: reading the file (from the system's cache) and making it ready to run.
        first_ms: the first inference.
        measurement, latency: of the others.
        numerics: whether it computes the source model.
        memory: None where it could not be measured.
        profile: if asked for, and run by ONNX Runtime.
        warnings: what makes the figures less than trustworthy.
    """

    name: str
    kind: str
    model_sha256: str | None
    checkpoint_sha256: str | None
    precision: str
    batch: int
    input_shape: tuple[int, ...]
    input_dtype: str
    runtime: str
    options: dict[str, object]
    load_ms: float
    first_ms: float
    measurement: Measurement
    latency: Summary
    numerics: Numerics
    memory: Memory | None
    profile: Profile | None
    warnings: tuple[str, ...]

    @property
    def images_per_s(self) -> float:
        """Throughput at concurrency 1."""
        return self.batch * 1e3 / self.latency.mean_ms

    def to_dict(self, *, samples: bool = False) -> dict[str, Any]:
        data = {
            "name": self.name,
            "kind": self.kind,
            "model_sha256": self.model_sha256,
            "checkpoint_sha256": self.checkpoint_sha256,
            "precision": self.precision,
            "batch": self.batch,
            "input": {"shape": list(self.input_shape), "dtype": self.input_dtype},
            "runtime": self.runtime,
            "options": self.options,
            "load_ms": plain(self.load_ms),
            "first_inference_ms": plain(self.first_ms),
            "warmup": self.measurement.warmup.to_dict(),
            "latency": self.latency.to_dict(),
            "throughput": {"images_per_s": plain(self.images_per_s), "concurrency": 1},
            "converged": self.measurement.converged,
            "not_converged_because": list(self.measurement.missing),
            "numerics": self.numerics.to_dict(),
            "memory": None if self.memory is None else self.memory.to_dict(),
            "profile": None if self.profile is None else self.profile.to_dict(),
            "warnings": list(self.warnings),
        }
        if samples:
            data["samples_ns"] = [block.tolist() for block in self.measurement.blocks]
        return data


@dataclass(frozen=True)
class Ratio:
    """How many times as long one subject takes as another, in p50; the note says what else differs between them."""

    numerator: str
    denominator: str
    ratio: Estimate
    blocks: int
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "numerator": self.numerator,
            "denominator": self.denominator,
            "p50_ratio": self.ratio.to_dict(),
            "blocks": self.blocks,
            "note": self.note,
        }

    def __str__(self) -> str:
        low, high = ("?" if side is None else f"{side:.2f}" for side in (self.ratio.low, self.ratio.high))
        text = (
            f"{self.numerator} takes {self.ratio.value:.2f} [{low}, {high}] times as long as {self.denominator}"
            f" (p50, 95 % interval, {self.blocks} blocks)"
        )
        return text if self.note is None else f"{text}; note: {self.note}"


@dataclass(frozen=True, eq=False)
class LatencyResult:
    """A measurement.

    Attributes:
        subjects: bundles in the order given, then opponents.
        ratios: of each opponent to each bundle; without opponents, of the first bundle to each other.
        plan: when it began, changed and stopped.
        contention: what else ran on the machine meanwhile.
        environment: the machine.
        command: that repeats the measurement.
    """

    subjects: tuple[SubjectReport, ...]
    ratios: tuple[Ratio, ...]
    plan: Plan
    contention: Contention
    environment: Environment
    command: str

    @property
    def warnings(self) -> list[str]:
        """Every warning, with the subject that it is of."""
        found = [f"{subject.name}: {warning}" for subject in self.subjects for warning in subject.warnings]
        if self.contention.verdict == "contended":
            found.append(f"CONTENDED, compare ratios only: {'; '.join(self.contention.reasons)}")
        governor = self.environment.governor
        if governor not in ("performance", "unknown"):
            found.append(f"the CPU's clock is not fixed: its governor is {governor}")
        return found

    def to_dict(self, *, samples: bool = False) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "command": self.command,
            "measured": _WHAT,
            "subjects": [subject.to_dict(samples=samples) for subject in self.subjects],
            "ratios": [ratio.to_dict() for ratio in self.ratios],
            "warnings": self.warnings,
            "contention": self.contention.to_dict(),
            "plan": self.plan.to_dict(),
            "environment": self.environment.to_dict(),
        }

    def report(self) -> str:
        """The whole result for people, ratios last but for warnings."""
        figures = table(self.subjects)
        lines = [*figures, "", *plots(self.subjects)]
        for subject in self.subjects:
            if subject.profile is not None:
                lines += ["", *profile_lines(subject.name, subject.profile)]
        lines += ["", *explanations(figures), _WHAT, f"machine: {self.environment}"]
        lines.append(f"contention: {self.contention}")
        lines += map(str, self.ratios)
        return "\n".join(lines + [f"WARNING: {warning}" for warning in self.warnings])

    def __str__(self) -> str:
        medians = ", ".join(f"{s.name} p50 {s.latency.p50} ms" for s in self.subjects)
        return "; ".join([medians, *map(str, self.ratios), *(["contended"] if self.contention.reasons else [])])


def subject_warnings(measurement: Measurement, latency: Summary) -> tuple[str, ...]:
    """What makes one subject's figures less than trustworthy."""
    found = []
    if not measurement.warmup.steady:
        found.append(f"not steady after a warm-up of {measurement.warmup.runs} runs")
    if not measurement.converged:
        found.append(f"not converged: {', '.join(measurement.missing)}")
    if latency.cv > CV_LIMIT:
        found.append(f"unstable: the coefficient of variation is {latency.cv:.1%}, the limit is {CV_LIMIT:.0%}")
    return tuple(found)
