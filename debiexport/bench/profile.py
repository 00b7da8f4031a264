"""Where the time of a model goes, from ONNX Runtime's profiler.

The runtime fuses nodes and adds others; a fused one keeps the name of a node that went into it, with a
suffix, which is cut off here. Nodes that it added, such as changes of layout, have no place in the network
and are counted as `runtime/KIND`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.bench.statistics import plain
from debiexport.bench.subjects import Spec, open_session
from debiexport.errors import DebiexportError
from debiexport.runtimes.base import Array

RUNS, WARMUP_RUNS, PLACES = 20, 5, 10
_SUFFIX = re.compile(r"(_kernel_time|_nchwc|_nhwc|_token_\d+|/[A-Za-z]*Fusion[A-Za-z]*/?)$")


@dataclass(frozen=True)
class Share:
    """Time of one kind of operation, or of one place, in each run."""

    name: str
    ms: float
    share: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "ms": plain(self.ms), "share": plain(self.share), "count": self.count}


@dataclass(frozen=True)
class Profile:
    """What the profiler counted, per run; profiling itself costs time, so the sum is not the latency.

    Attributes:
        runs: that it is the mean of, warm-up left out.
        run_ms: of a whole run.
        nodes_ms: of all nodes of a run together.
        operations: every kind of operation, the most expensive first.
        places: the most expensive places by their stable names.
    """

    runs: int
    run_ms: float
    nodes_ms: float
    operations: tuple[Share, ...]
    places: tuple[Share, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "run_ms": plain(self.run_ms),
            "nodes_ms": plain(self.nodes_ms),
            "operations": [share.to_dict() for share in self.operations],
            "places": [share.to_dict() for share in self.places],
        }


def profile(spec: Spec, pool: Sequence[Array], runs: int = RUNS, warmup_runs: int = WARMUP_RUNS) -> Profile:
    """Run a model under ONNX Runtime's profiler, in a session of its own."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = open_session(spec, profile_prefix=Path(folder) / "profile")
        for i in range(warmup_runs + runs):
            runtime.run({"images": pool[i % len(pool)]})
        events = json.loads(runtime.end_profile().read_text())
    return read_profile(events, warmup_runs)


def read_profile(events: Sequence[dict[str, Any]], warmup_runs: int) -> Profile:
    """Add up the events of ONNX Runtime's profile, without those of the first runs.

    Raises:
        DebiexportError: there is no run left.
    """
    sessions = [e for e in events if e.get("cat") == "Session" and e.get("name") == "model_run"]
    kept = sorted(sessions, key=lambda e: int(e["ts"]))[warmup_runs:]
    if not kept:
        raise DebiexportError("ONNX Runtime's profile holds no run: run again without --profile, and report this")
    begin = int(kept[0]["ts"])
    by_operation: Counter[str] = Counter()
    by_place: Counter[str] = Counter()
    operation_counts: Counter[str] = Counter()
    place_counts: Counter[str] = Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time") or int(event["ts"]) < begin:
            continue
        operation = str(event["args"].get("op_name", "unknown"))
        place, duration = stable_place(event["name"], operation), int(event["dur"])
        by_operation[operation] += duration
        by_place[place] += duration
        operation_counts[operation] += 1
        place_counts[place] += 1
    runs, total = len(kept), by_operation.total()

    def shares(durations: Counter[str], counts: Counter[str], limit: int | None = None) -> tuple[Share, ...]:
        ordered = sorted(durations.items(), key=lambda item: (-item[1], item[0]))[:limit]
        return tuple(
            Share(name, us / runs / 1e3, us / total if total else 0.0, round(counts[name] / runs))
            for name, us in ordered
        )

    return Profile(
        runs=runs,
        run_ms=sum(int(e["dur"]) for e in kept) / runs / 1e3,
        nodes_ms=total / runs / 1e3,
        operations=shares(by_operation, operation_counts),
        places=shares(by_place, place_counts, PLACES),
    )


def stable_place(name: str, operation: str) -> str:
    """The stable name in an event's name, or `runtime/KIND` for a node that the runtime added."""
    shorter = _SUFFIX.sub("", name)
    while shorter != name:
        name, shorter = shorter, _SUFFIX.sub("", shorter)
    return name if "/" in name or "." in name else f"runtime/{operation}"
