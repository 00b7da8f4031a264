"""The tables of `serving.py`: the two servers side by side, and the goals."""

from __future__ import annotations

from typing import Any

from serving_latency import EMBEDDED, FLOOR, TRITON
from serving_load import BARE, GRPC, HTTP

from debiexport.bench.contention import PRESSURE_LIMIT, STEAL_LIMIT

OVERHEAD_MS = 2.0
THROUGHPUT_RATIO = 0.8
MALFORMED_CASES, MALFORMED_MIB = 50, 400 * 1e6 / 2**20
STALL_S, STALL_SPARE_S = 10.0, 1.0  # a timer of 10 s, and a moment in which it is seen
FLAT_MIB = 16.0  # what an allocator may keep between two bursts of refusals
EXIT_S = 1.0

WITHOUT = {BARE: "ONNX Runtime without a server", FLOOR: "a socket that checks nothing, HTTP, 1 at once"}

Row = tuple[str, str, str, bool | None]


def table(data: dict[str, Any]) -> str:
    """The tables of README.md, in Markdown; of a run that was cut short, what there is."""
    lines = _side_by_side(data)
    lines += ["", "| figure | goal | measured | |", "|---|---|---|---|"]
    for label, goal, measured, met in figures(data):
        lines.append(f"| {label} | {goal} | {measured} | {'' if met is None else 'met' if met else 'missed'} |")
    return "\n".join(lines)


def _side_by_side(data: dict[str, Any]) -> list[str]:
    heading = "Triton (Python stand-in for its backend), p50 / p90 / p99"
    lines = [f"| model, load | embedded, p50 / p90 / p99 | per s | {heading} | per s |", "|---|---|---|---|---|"]
    for model, found in data["latency"].items():
        for row in found["closed"]:
            if named := WITHOUT.get(row["server"]):
                lines.append(f"| {model}, {named} | {_latency(row)} | {_rate(row)} | | |")
        for kind in ("closed", "open"):
            rows = {(r["protocol"], r.get("concurrency"), r.get("share"), r["server"]): r for r in found[kind]}
            for protocol, concurrency, share, server in rows:
                if server != EMBEDDED:
                    continue
                load = (
                    f"{concurrency} at once"
                    if kind == "closed"
                    else f"arrivals at {share:.0%} of the slower's capacity"
                )
                cells = [rows.get((protocol, concurrency, share, name)) for name in (EMBEDDED, TRITON)]
                told = " | ".join(f"{_latency(r)} | {_rate(r)}" if r else " | " for r in cells)
                lines.append(f"| {model}, {protocol}, {load} | {told} |")
    return lines


def _latency(row: dict[str, Any]) -> str:
    if not row["n"]:
        return "no answers"
    errors = sum(row["errors"].values())
    told = " / ".join(f"{row[name]['value']:.1f}" for name in ("p50_ms", "p90_ms", "p99_ms")) + " ms"
    return told + (f", {errors} errors" if errors else "")


def _rate(row: dict[str, Any]) -> str:
    return f"{row['throughput_per_s'] or 0:.1f}"


def figures(data: dict[str, Any]) -> list[Row]:
    """What was asked, the goal, what was measured, and whether it is met; None where nothing was measured."""
    parts = (_latency_rows, _malformed_rows, _fault_rows, _stop_rows, _others_rows)
    return [row for part in parts for row in part(data)]


def _latency_rows(data: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for model, found in data["latency"].items():
        overhead = found.get("http_overhead_ms")
        rows.append(
            (
                f"{model}: p50 over HTTP minus p50 of ONNX Runtime, one image at a time",
                f"at most {OVERHEAD_MS:g} ms",
                _shown(overhead, " ms"),
                None if overhead is None else overhead["value"] <= OVERHEAD_MS,
            )
        )
        rows.append(
            (f"{model}: the same of a socket that checks nothing", "", _shown(found["floor_overhead_ms"], " ms"), None)
        )
        ratio = found.get("grpc_throughput_ratio")
        rows.append(
            (
                f"{model}: throughput over gRPC at concurrency {found['most_concurrency']}, embedded / Triton",
                f"at least {THROUGHPUT_RATIO:g}",
                _shown(ratio),
                None if ratio is None else ratio["value"] >= THROUGHPUT_RATIO,
            )
        )
    return rows


def _shown(estimate: dict[str, float | None] | None, unit: str = "") -> str:
    if estimate is None:
        return "not measured"
    value, low, high = ("?" if estimate[key] is None else f"{estimate[key]:.2f}" for key in ("value", "low", "high"))
    return f"{value}{unit} ({low} - {high})"


def _malformed_rows(data: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for server, found in data.get("malformed", {}).items():
        counts, memory, ours = found["counts"], found["memory"], server == EMBEDDED
        shown = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        skipped = f"; {found['skipped_huge']} huge ones not sent" if found["skipped_huge"] else ""
        all_refused = not found["not_as_expected"] and set(found["counts_8_at_once"]) <= {"client error"}
        rows.append(
            (
                f"{server}: malformed requests",
                f"at least {MALFORMED_CASES}, all client errors" if ours else "",
                f"{found['cases']}: {shown}{skipped}",
                all_refused and found["answers_after"] and found["cases"] >= MALFORMED_CASES if ours else None,
            )
        )
        rows.append(
            (
                f"{server}: memory beyond the model's own, at the peak of them",
                "below 400 MB" if ours else "",
                f"{memory['growth_mib'] * 2**20 / 1e6:.0f} MB",
                memory["growth_mib"] < MALFORMED_MIB if ours else None,
            )
        )
    return rows


def _fault_rows(data: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    if found := data.get("stalled"):
        kinds = found["kinds"].values()
        cut, opened = (sum(kind[name] for kind in kinds) for name in ("cut", "connections"))
        last = max((kind["last_s"] or 0.0 for kind in kinds), default=0.0)
        met = cut == opened and last <= STALL_S + STALL_SPARE_S and set(found["others"]) == {"200"}
        shown = f"{cut} of {opened}, the last after {last:.1f} s"
        rows.append(("stalled and half-open connections are cut, others answered", f"{STALL_S:g} s", shown, met))
    if found := data.get("overflow"):
        for protocol, told in found["protocols"].items():
            others = set(told["counts"]) - {"200", "503"}
            retry = protocol != HTTP or told["refused_with_retry_after"] == told["refused"]
            rows.append(
                (
                    f"overload over {protocol}: refused with 503{', Retry-After' if protocol == HTTP else ''}",
                    "all that do not fit",
                    _counts(told["counts"]),
                    told["refused"] > 0 and not others and retry,
                )
            )
            growth = told["growth_mib"]
            rows.append(
                (
                    f"overload over {protocol}: memory, second time over the first",
                    f"at most {FLAT_MIB:g} MiB",
                    f"{growth:.1f} MiB",
                    growth <= FLAT_MIB,
                )
            )
    if found := data.get("deadlines"):
        late = found["counts"].get("504", 0)
        met = late > 0 and found["expired_and_not_run"] > 0 and set(found["counts"]) <= {"200", "504"}
        shown = f"{_counts(found['counts'])}; {found['expired_and_not_run']} never run"
        rows.append((f"deadlines of {found['timeout_ms']:.0f} ms that cannot be kept", "504, not run", shown, met))
    return rows


def _stop_rows(data: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    if found := data.get("terminate"):
        under_way = sum(found["in_flight"].values())
        failed, after = found["in_flight_failed"], found["exit_after_last_answer_s"]
        rows.append(
            ("SIGTERM under load: failed of those under way", "0", f"{failed} of {under_way}", failed == 0 < under_way)
        )
        met = after <= EXIT_S and found["exit_code"] == 0
        rows.append(("SIGTERM under load: end after the last answer", f"at most {EXIT_S:g} s", f"{after:.2f} s", met))
    if found := data.get("kill"):
        shown = "; ".join(
            f"{protocol}: {found[protocol]['lost_in_flight']} lost of {found[protocol]['answered']}, again after"
            f" {found[protocol]['first_answer_after_s'] or float('nan'):.1f} s"
            for protocol in (HTTP, GRPC)
        )
        met = all(found[protocol]["first_answer_after_s"] is not None for protocol in (HTTP, GRPC))
        rows.append(("SIGKILL under load and restart: clients come back by themselves", "both", shown, met))
    return rows


def _others_rows(data: dict[str, Any]) -> list[Row]:
    """No goal, but what the figures are worth."""
    told = []
    for when in ("before", "after"):
        found = data.get(f"others_{when}") or {}
        pressure, steal = found.get("pressure"), found.get("steal")
        if pressure is None:
            told.append(f"{when}: unknown")
            continue
        quiet = pressure <= PRESSURE_LIMIT and (steal or 0.0) <= STEAL_LIMIT
        told.append(f"{when}: {pressure:.0%} of the time, {'quiet' if quiet else 'contended'}")
    return [("other processes that waited for a CPU", "", "; ".join(told), None)]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))
