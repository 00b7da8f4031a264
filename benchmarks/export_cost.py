"""What an export costs: wall time and peak memory of `debiexport onnx`, parity included, in a process of its own.

    python benchmarks/export_cost.py [MODEL...]        default: debi_nano debi_t debi_b

Prints one line a model and writes benchmarks/results/export_cost.json with the machine's description. Wall
time on a shared machine is an upper bound: the pressure on the CPU during each run is recorded beside it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from debiexport.doctor import diagnose

RESULTS = Path(__file__).parent / "results" / "export_cost.json"
LIMITS = {"debi_t": (60, 3.0), "debi_b": (240, 8.0)}  # seconds, GB: what users may expect on 2 cores


def measure(model: str) -> dict[str, Any]:
    """Export once into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "debiexport", "onnx", "--model", model, "--output", f"{folder}/out", "--json"]
        begun, pressure = time.monotonic(), _cpu_stalled()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        report = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"the export of {model} failed: {report.decode()}")
    manifest = json.loads(report)["manifest"]
    stalled = _cpu_stalled()
    return {
        "model": model,
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(_peak_bytes(usage) / 1e9, 2),
        "cpu_stalled_share": None if pressure is None or stalled is None else round((stalled - pressure) / seconds, 3),
        "model_mb": round(manifest["artifacts"][0]["bytes"] / 1e6, 1),
        "relative_error": max(output["relative_error"] for output in manifest["parity"]["outputs"]),
        "within_limits": model not in LIMITS
        or (seconds <= LIMITS[model][0] and _peak_bytes(usage) <= LIMITS[model][1] * 1e9),
    }


def _peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _cpu_stalled() -> float | None:
    """Seconds since boot in which some process waited for a CPU; None where the system does not tell."""
    try:
        first = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return None
    return int(first.rsplit("total=", 1)[1]) / 1e6


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def table(data: dict[str, Any]) -> str:
    """The table of README.md, in Markdown."""
    lines = ["| model | seconds | peak memory (GB) | `model.onnx` (MB) | relative error |", "|---|---|---|---|---|"]
    for row in data["exports"]:
        lines.append(
            f"| {row['model']} | {row['seconds']:.0f} | {row['peak_memory_gb']:.1f} | {row['model_mb']:.0f}"
            f" | {row['relative_error']:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    rows = []
    for model in sys.argv[1:] or ["debi_nano", "debi_t", "debi_b"]:
        rows.append(measure(model))
        print(
            "{model}: {seconds} s, {peak_memory_gb} GB, within limits: {within_limits}".format(**rows[-1]), flush=True
        )
    RESULTS.parent.mkdir(exist_ok=True)
    environment = {"cpu": _cpu_model(), **diagnose().to_dict()}
    data = {"command": "python benchmarks/export_cost.py", "environment": environment, "exports": rows}
    RESULTS.write_text(json.dumps(data, indent=2) + "\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
