"""What the top-k of the deformable attention costs a Core ML package: the choices of Table 6 of the DeBiFormer paper.

    python benchmarks/table6.py

Each choice is applied to debi_t (seeded random weights, 224 px, fp16, the lowering for the Neural Engine) and exported
with its proof, in about a minute on 2 cores. Off a Mac the figures are those of the saved packages: operations,
bytes, multiply-adds. On a Mac each is timed too, on the CPU and the Neural Engine. Prints a line a choice and writes
benchmarks/results/table6.json with the machine's description.

The paper's latencies are of another network (the Swin-T layout, never released) and of its own export. Only how they
change from choice to choice can be compared, no absolute figure. Its accuracy is told of the default alone.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from debiexport.environment import describe_environment
from debiexport.export import export_coreml
from debiexport.placement.report import PlacementReport
from debiexport.runtimes.macos import describe_mac

RESULTS = Path(__file__).parent / "results" / "table6.json"
MODEL, PRECISION, LOWERING, UNITS = "debi_t", "fp16", "ane", "CPU_AND_NE"
DEFAULT = (4, 8, 16, 49)
# Top-k of DBRA by stage, and the paper's milliseconds with Core ML on a MacBook Pro M1, CPU and Neural Engine.
PAPER_MS = {(1, 4, 16, 49): 291, (2, 8, 32, 49): 459, (4, 8, 16, 32): 276, (8, 16, 32, 49): 498, DEFAULT: 382}
PAPER_TOP1 = {DEFAULT: 81.90}
NOTE = (
    "absolute figures cannot be compared with the paper's: its latencies are of a network in the Swin-T layout that was"
    " never released, on a MacBook Pro M1; compare only how they change with top-k"
)


def measure(top_k: tuple[int, ...], *, timed: bool) -> dict[str, Any]:
    """Export one choice into a temporary folder, and on a Mac time it."""
    with tempfile.TemporaryDirectory() as folder:
        result = export_coreml(MODEL, top_k=top_k, precision=PRECISION, lowering=LOWERING, output=f"{folder}/out")
        placement = PlacementReport.from_dict(result.manifest.placement or {})
        latency = _latency(result.path) if timed else None
    return {
        "top_k": list(top_k),
        "operations": sum(placement.operations.values()),
        "never_on_neural_engine": placement.never_count,
        "transposes": placement.transposes,
        "written_mb": round(placement.written_bytes / 1e6, 1),
        "largest_tensor": 0 if placement.largest is None else placement.largest.elements,
        "multiply_adds_g": round(placement.multiply_adds / 1e9, 3),
        "package_mb": round(placement.package_bytes / 1e6, 1),
        "psnr_db": round(min(output.psnr_db for output in result.parity.outputs), 1),
        "versions": result.manifest.versions,
        "latency": latency,
        "paper_ms": PAPER_MS[top_k],
        "paper_top1": PAPER_TOP1.get(top_k),
    }


def _latency(bundle: Path) -> dict[str, Any]:
    """Milliseconds of a prediction on the CPU and the Neural Engine, or why there are none."""
    from debiexport.bench.coreml import measure_coreml

    result = measure_coreml(bundle, units=(UNITS,), progress=lambda line: print(line, file=sys.stderr))
    (unit,) = result.units
    return {"failure": unit.failure, "wall": None if unit.wall is None else unit.wall.to_dict()}


def table(data: dict[str, Any]) -> str:
    """The table of README.md, in Markdown."""
    timed = any(row["latency"] is not None for row in data["choices"])
    head = ["top-k", "operations", "transposes", "written (MB)", "largest tensor", "multiply-adds (G)", "package (MB)"]
    head += ["ms here"] if timed else []
    head += ["ms in the paper"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in data["choices"]:
        name = ",".join(map(str, row["top_k"]))
        cells = [
            f"{name} (default)" if tuple(row["top_k"]) == DEFAULT else name,
            str(row["operations"]),
            str(row["transposes"]),
            f"{row['written_mb']:.1f}",
            f"{row['largest_tensor'] / 1e6:.2f} M",
            f"{row['multiply_adds_g']:.2f}",
            f"{row['package_mb']:.1f}",
        ]
        if timed:
            wall = (row["latency"] or {}).get("wall")
            cells.append("-" if wall is None else f"{wall['p50_ms']['value']:.2f}")
        lines.append(f"| {' | '.join([*cells, str(row['paper_ms'])])} |")
    return "\n".join(lines)


def main() -> None:
    timed = sys.platform == "darwin"
    rows = []
    for top_k in PAPER_MS:
        rows.append(measure(top_k, timed=timed))
        print(json.dumps(rows[-1]), flush=True)
        gc.collect()
    RESULTS.parent.mkdir(exist_ok=True)
    data = {
        "command": "python benchmarks/table6.py",
        "note": NOTE,
        "model": MODEL,
        "precision": PRECISION,
        "lowering": LOWERING,
        "units": UNITS if timed else None,
        "mac": describe_mac().to_dict() if timed else None,
        "environment": describe_environment().to_dict(),
        "choices": rows,
    }
    RESULTS.write_text(json.dumps(data, indent=2) + "\n")
    print(table(data))
    print(NOTE)
    if not timed:
        print("this is no Mac: nothing was timed, the figures are those of the saved packages")


if __name__ == "__main__":
    main()
