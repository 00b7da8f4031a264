"""What Core ML packages hold and cost, off a Mac: placement figures, PSNR, sizes, accuracy, time and memory.

    python benchmarks/coreml_static.py            measure, write benchmarks/results/coreml_static.json, print the tables
    python benchmarks/coreml_static.py MODEL...   measure these anew and keep the others of that file
    python benchmarks/coreml_static.py --table    print the tables of that file

Every package is exported and proven by `debiexport coreml` in a process of its own: the cards at their sizes in fp16,
debi_t in every lowering and precision, debi_nano in every precision with its accuracy on the 360 held-out scans.
Nothing here was placed or timed by Core ML. About twenty-five minutes on 2 cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from debiexport.bundle import GOLDEN, open_bundle
from debiexport.environment import describe_environment
from debiexport.golden import read_golden
from debiexport.placement.report import PlacementReport
from debiexport.signature import IMAGES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "coreml_static.json"
# Where a card's own size would take the reference many minutes, a smaller one; 32 x 32 regions need gathers.
PACKAGES: list[dict[str, Any]] = [
    {"model": "debi_t"},
    {"model": "debi_s"},
    {"model": "debi_b"},
    {"model": "biformer_t"},
    {"model": "biformer_s"},
    {"model": "biformer_b"},
    {"model": "biformer_stl"},
    {"model": "debi_nano", "scans": True},
    {"model": "debi_s_seg"},
    {"model": "debi_t_seg", "size": "256"},
    {"model": "debi_b_seg", "size": "256"},
    {"model": "debi_t_det", "size": "256x448"},
    {"model": "debi_s_det", "size": "256x448"},
    {"model": "debi_b_det", "size": "256x448", "lowering": "gather"},
    {"model": "debi_t", "lowering": "gather"},
    {"model": "debi_t", "lowering": "plain"},
    *({"model": "debi_t", "precision": precision} for precision in ("fp32", "int8", "palette6", "palette4")),
    *(
        {"model": "debi_nano", "precision": precision, "scans": True}
        for precision in ("fp32", "int8", "palette6", "palette4")
    ),
]
SCANS = "models/debi_nano"
RUNS = 5
ROW = "--row"


def export(
    model: str, *, size: str | None = None, lowering: str = "ane", precision: str = "fp16", scans: bool = False
) -> dict[str, Any]:
    """Export once into a temporary folder; exit codes other than 0 and 3 end the benchmark."""
    options = ["--model", model, "--lowering", lowering, "--precision", precision]
    options += [] if size is None else ["--image-size", size]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "debiexport", "coreml", *options, "--output", f"{folder}/out", "--json"]
        command += ["--eval", SCANS] if scans else []
        begun = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds, code = time.monotonic() - begun, os.waitstatus_to_exitcode(status)
        bundle = next((p for p in (Path(folder) / "out", Path(folder) / "out.unverified") if p.is_dir()), None)
        if code not in (0, 3) or bundle is None:
            sys.exit(f"debiexport coreml {' '.join(options)} ended with {code}: {said.decode()}")
        row = _row_elsewhere(bundle) | {
            "model": model,
            "lowering": lowering,
            "precision": precision,
            "exit_code": code,
            "seconds": round(seconds, 1),
            "peak_memory_gb": round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2),
        }
        if scans:
            row["accuracy"] = _accuracy(json.loads(said))
    print(f"{model} {lowering} {precision}: {row['psnr_db']} dB, {row['seconds']} s, exit code {code}", flush=True)
    return row


def _row_elsewhere(folder: Path) -> dict[str, Any]:
    """`_row` in a process of its own: what is started from a large process is said to have been as large itself."""
    said = subprocess.run([sys.executable, __file__, ROW, str(folder)], stdout=subprocess.PIPE, check=True).stdout
    row: dict[str, Any] = json.loads(said)
    return row


def _row(folder: Path) -> dict[str, Any]:
    bundle = open_bundle(folder)
    placement = PlacementReport.from_dict(bundle.manifest.placement or {})
    parity = bundle.manifest.parity
    routes = [block for block in parity["routes"] if block["rows"]]
    rows = sum(block["rows"] for block in routes)
    golden = read_golden(bundle.file(GOLDEN), bundle.geometry, bundle.manifest.input)
    begun = time.perf_counter()
    runtime = bundle.runtime()
    loaded = time.perf_counter()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        runtime.run({IMAGES: golden.images[:1]})
        times.append(time.perf_counter() - start)
    return {
        "image_size": list(bundle.manifest.image_size),
        "psnr_db": min(output["psnr_db"] for output in parity["outputs"]),
        "top1_agreement": parity["outputs"][0]["top1_agreement"],
        "route_agreement": round(sum(b["agreement"] * b["rows"] for b in routes) / rows, 4) if rows else None,
        "flips_psnr_db": parity["flips_psnr_db"],
        "placement": placement.to_dict(),
        "load_s": round(loaded - begun, 2),
        "evaluation_s": round(float(np.median(times)), 2),
    }


def _accuracy(result: dict[str, Any]) -> str:
    """What the export said of the accuracy."""
    said = [*result.get("notes", []), result.get("error", "")]
    return next(line.split(": ", 1)[1] for line in said if line.startswith("accuracy"))


PLACED = (
    "model, fp16", "PSNR (dB)", "never on the NE", "integer tensors", "transposes", "written (MB)",
    "largest tensor (M)", "multiply-adds (G)", "package (MB)", "export (s)", "memory (GB)",
)  # fmt: skip
COMPRESSED = ("precision", "debi_t, package (MB)", "debi_t, PSNR (dB)", "debi_nano, PSNR (dB)", "debi_nano, scans")


def table(data: dict[str, Any]) -> str:
    """The tables of README.md, in Markdown."""
    rows = data["packages"]
    lines = _head(PLACED)
    for row in rows:
        if row["precision"] == "fp16":
            size = "x".join(map(str, row["image_size"]))
            lowering = "" if row["lowering"] == "ane" else f", {row['lowering']}"
            lines.append(_placed(f"{row['model']}, {size}{lowering}", row))
    lines += ["", *_head(COMPRESSED)]
    nano = {row["precision"]: row for row in rows if row["model"] == "debi_nano"}
    for row in rows:
        if row["model"] == "debi_t" and row["lowering"] == "ane":
            small = nano.get(row["precision"])
            if small is None:
                continue
            lines.append(
                f"| {row['precision']} | {row['placement']['package_bytes'] / 1e6:.1f} | {row['psnr_db']:.1f}"
                f" | {small['psnr_db']:.1f} | {small['accuracy']} |"
            )
    return "\n".join(lines)


def _head(titles: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def _placed(name: str, row: dict[str, Any]) -> str:
    p = PlacementReport.from_dict(row["placement"])
    largest = 0 if p.largest is None else p.largest.elements
    return (
        f"| {name} | {row['psnr_db']:.1f} | {p.never_count} | {p.integer_tensors} | {p.transposes}"
        f" | {p.written_bytes / 1e6:.0f} | {largest / 1e6:.2f} | {p.multiply_adds / 1e9:.2f}"
        f" | {p.package_bytes / 1e6:.1f} | {row['seconds']:.0f} | {row['peak_memory_gb']:.1f} |"
    )


def main() -> None:
    asked = sys.argv[1:]
    if asked[:1] == [ROW]:
        print(json.dumps(_row(Path(asked[1]))))
        return
    if asked != ["--table"]:
        kept = {_key(row): row for row in _recorded()} if asked else {}
        for package in PACKAGES:
            if not asked or package["model"] in asked:
                kept[_key(package)] = export(**package)
                _record(kept)  # what has been measured is not lost if the next one fails
    print(table(json.loads(RESULTS.read_text())))


def _recorded() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text())["packages"] if RESULTS.exists() else []


def _record(rows: dict[tuple[str, str, str], dict[str, Any]]) -> None:
    """Write what has been measured, in the order of `PACKAGES`."""
    data = {
        "command": "python benchmarks/coreml_static.py",
        "environment": describe_environment().to_dict(),
        "packages": [rows[key] for key in map(_key, PACKAGES) if key in rows],
    }
    RESULTS.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["model"], row.get("lowering", "ane"), row.get("precision", "fp16")


if __name__ == "__main__":
    main()
