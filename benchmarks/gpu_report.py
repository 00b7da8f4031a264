"""The tables of the GPU benchmark and its goals, from the result file alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PRECISION, BATCH = "fp16", 8
"""What the goals are about."""

OPERATIONS = {"region_attention": 2.0, "agent_attention": 3.0}
"""Goals: how many times as long the eager form takes, at least."""

LIMIT_GOAL = 1.5
"""Goal: times the bytes that have to move over the bandwidth, at most."""

NETWORK_GOAL = 3.0
"""Goal: how many times as long the eager network takes, at least."""

EAGER, NATIVE, GRAPH = "eager", "native", "CUDA graph"

Case = Mapping[str, Any]
Goal = tuple[str, str, str, bool | None]


def table(data: Mapping[str, Any]) -> str:
    """Everything, in Markdown."""
    cases = list(data["cases"].values())
    parts = [
        "\n".join(_machine(data)),
        _kernel_table(
            [c for c in cases if c["kind"] == "kernel" and (c["precision"], c["batch"]) == (PRECISION, BATCH)]
        ),
        _summary_table([c for c in cases if c["kind"] == "kernel"]),
        _network_table([c for c in cases if c["kind"] == "network"]),
        _onnx_table([c for c in cases if c["kind"] == "onnxruntime"]),
        _goal_table(goals(data)),
    ]
    if data["missing"]:
        parts.append(f"Not measured: {', '.join(data['missing'])}.")
    if failures := _failures(data):
        parts.append("\n".join(["Failed:", "", *(f"- {why}: {', '.join(names)}" for why, names in failures.items())]))
    return "\n\n".join(part for part in parts if part)


def goals(data: Mapping[str, Any]) -> list[Goal]:
    """What was asked, the goal, what was measured, and whether it is met; None where it was not measured.

    A kernel meets a goal if it does so in every use, so that the worst one is shown.
    """
    cases = [c for c in data["cases"].values() if (c.get("precision"), c["batch"]) == (PRECISION, BATCH)]
    rows: list[Goal] = []
    for operation, wanted in OPERATIONS.items():
        uses = [c for c in cases if c["kind"] == "kernel" and c["operation"] == operation]
        missing = sum(
            name.endswith(f"{PRECISION}/b{BATCH}") and _operation(name) == operation for name in data["missing"]
        )
        label = f"{operation}, {PRECISION}, batch {BATCH}"
        rows.append(_least(f"{label}: the faster eager form / ours", wanted, uses, missing))
        rows.append(_most(f"{label}: ours / limit of the bytes moved", uses, missing))
    for name in (name for name in data["missing"] if name.endswith(f"/network/{PRECISION}/b{BATCH}")):
        label = f"{name.partition('/')[0]}, {PRECISION}, batch {BATCH}: eager / plugins"
        rows.append((label, f"at least {NETWORK_GOAL:g}", "not measured", None))
    for case in (c for c in cases if c["kind"] == "network"):
        label = f"{case['card']}, {PRECISION}, batch {BATCH}: eager / plugins"
        for name, judged in ((EAGER, True), (f"{EAGER}, {GRAPH}", False)):
            found = case["ratios"].get(f"{name} / {case['best']}")
            goal = f"at least {NETWORK_GOAL:g}" if judged else ""
            shown = f"{label}{'' if judged else ', both as CUDA graphs'}"
            met = None if found is None or not judged else found["value"] >= NETWORK_GOAL
            rows.append((shown, goal, "not measured" if found is None else _ratio(found), met))
    return rows


def is_correct(data: Mapping[str, Any]) -> bool:
    """Whether every subject of ours that was compared computes what it has to."""
    subjects = (row for case in data["cases"].values() for row in case["subjects"].values())
    return all(row["correct"] for row in subjects if row["ours"])


def faster_eager(case: Case) -> tuple[str, Mapping[str, float | None]] | None:
    """Of the eager forms that goals are about the faster one, and its ratio to the best kernel."""
    judged = [name for name, row in case["subjects"].items() if not row["ours"] and row["judged"]]
    found = {name: case["ratios"][key] for name in judged if (key := f"{name} / {case['best']}") in case["ratios"]}
    name = min(found, key=lambda name: found[name]["value"], default=None)
    return None if name is None else (name, found[name])


def _least(label: str, wanted: float, uses: Sequence[Case], missing: int) -> Goal:
    found = [(_place(case), faster_eager(case)) for case in uses]
    known = [(place, *pair) for place, pair in found if pair is not None]
    goal = f"at least {wanted:g}"
    if not known:
        return label, goal, "not measured", None
    place, form, ratio = min(known, key=lambda entry: entry[2]["value"] or 0.0)
    met = sum((entry[2]["value"] or 0.0) >= wanted for entry in known)
    complete = not missing and len(known) == len(uses)
    told = f"{_ratio(ratio)} at {place}, {form}; {met} of {len(uses) + missing} uses"
    return label, goal, told, False if met < len(known) else True if complete else None


def _most(label: str, uses: Sequence[Case], missing: int) -> Goal:
    known = [(_place(c), c["subjects"][c["best"]]["times_limit"]) for c in uses if c["best"] is not None]
    goal = f"at most {LIMIT_GOAL:g}"
    if not known:
        return label, goal, "not measured", None
    place, times = max(known, key=lambda entry: entry[1])
    met = sum(entry[1] <= LIMIT_GOAL for entry in known)
    complete = not missing and len(known) == len(uses)
    told = f"{times:.2f} at {place}; {met} of {len(uses) + missing} uses"
    return label, goal, told, False if met < len(known) else True if complete else None


def _operation(name: str) -> str | None:
    """Of a kernel's case by its name."""
    parts = name.split("/")
    if len(parts) != 5:
        return None
    return "agent_attention" if parts[2] == "broadcast" else "region_attention"


def _machine(data: Mapping[str, Any]) -> Iterator[str]:
    gpu, packages = data["gpu"], data["environment"]["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "triton", "onnxruntime-gpu") if name in packages
    )
    driver = next((one.get("driver_version") for one in data["environment"]["gpus"] or ()), "unknown")
    clocks = clock_range(data["states"])
    yield (
        f"{gpu['name']}, driver {driver}, CUDA {gpu['cuda_of_torch']}, {versions}; memory copies at"
        f" {data['copy_bytes_per_s'] / 1e9:.0f} GB/s, a kernel that does nothing takes"
        f" {data['launch_floor_ns'] / 1e3:.2f} µs in a graph;"
        f" SM clock {'unknown' if clocks is None else f'{clocks[0]} to {clocks[1]} MHz'}."
    )


def clock_range(states: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Lowest and highest SM clock of the first GPU in MHz, of all times at which nvidia-smi was asked."""
    told = [(state["gpus"] or [{}])[0].get("clocks.sm", "").split() for state in states]
    speeds = [int(words[0]) for words in told if words and words[0].isdigit()]
    return (min(speeds), max(speeds)) if speeds else None


def _kernel_table(cases: Sequence[Case]) -> str:
    lines = []
    for case in cases:
        if case["best"] is None:
            lines.append(f"| {_place(case)} | none is right | | | | | |")
            continue
        row, eager = case["subjects"][case["best"]], faster_eager(case)
        triton = case["ratios"].get(f"Triton {case['best'].rpartition(' ')[2]} / {case['best']}")
        lines.append(
            f"| {_place(case)} | {row['p50_ms']['value'] * 1e3:.1f} µs | {case['best']} | {row['relative_error']:.0e} |"
            f" {row['times_limit']:.2f} | {'' if eager is None else f'{_ratio(eager[1])}, {eager[0]}'} |"
            f" {'' if triton is None else _ratio(triton)} |"
        )
    if not lines:
        return ""
    head = f"| {PRECISION}, batch {BATCH} | ours, p50 | best | error | ours / limit | eager / ours | Triton / ours |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *lines])


def _summary_table(cases: Sequence[Case]) -> str:
    """Lowest and highest figures of all uses."""
    groups: dict[tuple[str, str, int], list[Case]] = {}
    for case in cases:
        groups.setdefault((case["operation"], case["precision"], case["batch"]), []).append(case)
    lines = []
    for (operation, precision, batch), members in groups.items():
        ratios = [pair[1]["value"] or 0.0 for case in members if (pair := faster_eager(case)) is not None]
        limits = [case["subjects"][case["best"]]["times_limit"] for case in members if case["best"] is not None]
        lines.append(f"| {operation} | {precision} | {batch} | {len(members)} | {_span(ratios)} | {_span(limits)} |")
    if not lines:
        return ""
    head = "| kernel | precision | batch | uses | eager / ours | ours / limit |"
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


def _network_table(cases: Sequence[Case]) -> str:
    lines = []
    for case in cases:
        native = [n for n in case["subjects"] if n.startswith(NATIVE) and n.endswith(GRAPH)]
        fastest = min(native, key=lambda name: case["subjects"][name]["p50_ms"]["value"], default=None)
        cells = [_milliseconds(case, name) for name in (EAGER, f"{EAGER}, {GRAPH}", fastest, case["best"])]
        others = [case["ratios"].get(f"{name} / {case['best']}") for name in (EAGER, f"{EAGER}, {GRAPH}", fastest)]
        cells += ["" if ratio is None else _ratio(ratio) for ratio in others]
        lines.append(f"| {case['card']}, {case['precision']}, batch {case['batch']} | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = (
        "| network | eager | eager, graph | native, graph | plugins, graph | eager / plugins | eager, graph / plugins |"
        " native / plugins |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *lines])


def _onnx_table(cases: Sequence[Case]) -> str:
    lines = []
    for case in cases:
        shown = "; ".join(f"{name} {_milliseconds(case, name)}" for name in case["subjects"])
        ratios = "; ".join(f"{name}: {_ratio(ratio)}" for name, ratio in case["ratios"].items())
        lines.append(f"| {case['card']}, batch {case['batch']} | {shown} | {ratios} |")
    if not lines:
        return ""
    return "\n".join(["| ONNX Runtime | p50 | ratios |", "|---|---|---|", *lines])


def _goal_table(rows: Sequence[Goal]) -> str:
    lines = ["| figure | goal | measured | |", "|---|---|---|---|"]
    for label, goal, measured, met in rows:
        lines.append(f"| {label} | {goal} | {measured} | {'' if met is None else 'met' if met else 'missed'} |")
    return "\n".join(lines)


def _failures(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """What failed, by reason."""
    found: dict[str, list[str]] = {}
    for name, case in data["cases"].items():
        for subject, why in case["failed"].items():
            found.setdefault(why, []).append(f"{name} {subject}")
        for subject, row in case["subjects"].items():
            if row["ours"] and not row["correct"]:
                found.setdefault("the error is beyond what is allowed", []).append(f"{name} {subject}")
    for name, why in data["failed"].items():
        found.setdefault(why, []).append(name)
    return found


def _place(case: Case) -> str:
    return f"{case['card']} {case['stage']} {case['role']}"


def _milliseconds(case: Case, name: str | None) -> str:
    if name is None or name not in case["subjects"]:
        return ""
    row = case["subjects"][name]
    return f"{row['p50_ms']['value']:.3g} ms{'' if row['correct'] else ' (wrong)'}"


def _ratio(ratio: Mapping[str, float | None]) -> str:
    value, low, high = ("?" if ratio[key] is None else f"{ratio[key]:.2f}" for key in ("value", "low", "high"))
    return f"{value} ({low} - {high})"


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} - {max(values):.2f}" if values else ""
