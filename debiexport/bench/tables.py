"""The tables and plots of a measurement, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from debiexport.bench.statistics import P999_COUNT, Estimate, Summary

if TYPE_CHECKING:
    from debiexport.bench.profile import Profile
    from debiexport.bench.report import SubjectReport

_BARS = "▁▂▃▄▅▆▇█"
TOO_FEW = f"n < {P999_COUNT:,}"


def table(subjects: Sequence[SubjectReport]) -> list[str]:
    """A row a figure, a column a subject."""

    def of(estimate: Estimate | None) -> str:
        return TOO_FEW if estimate is None else str(estimate)

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    rows: list[list[str]] = [["", *(s.name for s in subjects)]]
    rows.append(["runtime", *(s.runtime for s in subjects)])
    rows.append(["input", *("x".join(map(str, s.input_shape)) + f" {s.input_dtype}" for s in subjects)])
    rows.append(["p50, ms", *(of(s.latency.p50) for s in subjects)])
    rows.append(["p90, ms", *(of(s.latency.p90) for s in subjects)])
    rows.append(["p99, ms", *(of(s.latency.p99) for s in subjects)])
    rows.append(["p99.9, ms", *(of(s.latency.p999) for s in subjects)])
    rows.append(["min .. max, ms", *(f"{s.latency.min_ms:.3g} .. {s.latency.max_ms:.3g}" for s in subjects)])
    rows.append(["mean ± std, ms", *(f"{s.latency.mean_ms:.3g} ± {s.latency.std_ms:.2g}" for s in subjects)])
    rows.append(["CV", *(f"{s.latency.cv:.1%}" for s in subjects)])
    rows.append(["images/s", *(f"{s.images_per_s:.1f}" for s in subjects)])
    rows.append(["runs", *(f"{s.latency.n}" for s in subjects)])
    rows.append(["load, first, ms", *(f"{s.load_ms:.0f}, {s.first_ms:.3g}" for s in subjects)])
    rows.append(["peak memory", *("unknown" if s.memory is None else str(s.memory) for s in subjects)])
    rows.append(["relative error", *(f"{s.numerics.relative_error:.1e} ({s.numerics.method})" for s in subjects)])
    rows.append(["top-1 agreement", *(share(s.numerics.top1_agreement) for s in subjects)])
    return _columns(rows)


def explanations(lines: Sequence[str]) -> list[str]:
    """What the signs in a table's lines mean."""
    text = "\n".join(lines)
    found = ["[low, high] is a 95 % interval; load is reading the model and making it ready, first the first inference"]
    if "?" in text:
        found.append("?: too few runs for that end of the interval")
    if TOO_FEW in text:
        found.append(f"{TOO_FEW}: a p99.9 takes at least {P999_COUNT:,} runs; --min-time makes for more")
    return found


def plots(subjects: Sequence[SubjectReport]) -> list[str]:
    width = max(len(s.name) for s in subjects)
    return [f"{s.name.ljust(width)}  {plot(s.latency)}" for s in subjects]


def plot(summary: Summary) -> str:
    """The distribution as one line: bars from the smallest latency to the p99, then how many lie beyond."""
    top = max(summary.histogram)
    bars = "".join(" " if count == 0 else _BARS[count * (len(_BARS) - 1) // top] for count in summary.histogram)
    beyond = f" +{summary.beyond_histogram} up to {summary.max_ms:.3g}" if summary.beyond_histogram else ""
    return f"{summary.min_ms:.3g} {bars} {summary.p99.value:.3g} ms{beyond}"


def profile_lines(name: str, profile: Profile) -> list[str]:
    lines = [
        f"{name}, profile of {profile.runs} runs: {profile.nodes_ms:.3g} of {profile.run_ms:.3g} ms in nodes; profiling"
        " adds time, so read the shares here and the latency above"
    ]
    for title, shares in (("operation", profile.operations), ("place", profile.places)):
        rows = [["", title, "ms", "share", "nodes"]]
        rows += [["", s.name, f"{s.ms:.3f}", f"{s.share:.1%}", str(s.count)] for s in shares]
        lines += _columns(rows)
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
