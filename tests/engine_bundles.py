"""What the tests do with a TensorRT bundle that has an engine: change its manifest, and time it fast."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from debiexport.bench.runner import Plan
from debiexport.bundle import sha256_of
from debiexport.manifest import MANIFEST

QUICK = Plan(
    min_time_s=0.01,
    min_count=5,
    max_time_s=0.05,
    p99_width=1e9,
    warmup_window_runs=2,
    warmup_window_s=1e-3,
    warmup_windows=2,
    warmup_max_s=0.05,
    block_s=1e-3,
    block_min_runs=3,
    dropped_runs=1,
)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest, and make its hashes those of the files."""
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    for artifact in data["artifacts"]:
        path = folder / artifact["path"]
        artifact["sha256"], artifact["bytes"] = sha256_of(path), path.stat().st_size
    (folder / MANIFEST).write_text(json.dumps(data))


def engine(data: dict[str, Any]) -> dict[str, Any]:
    """The record of the first engine in a manifest."""
    records: list[dict[str, Any]] = [a["engine"] for a in data["artifacts"] if a["role"] == "engine"]
    return records[0]


def remove_engine(data: dict[str, Any]) -> None:
    """Take the engines off the list."""
    data["artifacts"] = [artifact for artifact in data["artifacts"] if artifact["role"] != "engine"]
