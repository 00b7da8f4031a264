"""What typed graphs for TensorRT hold and cost, without a GPU: PSNR as typed, nodes, and what the compile gate says.

    python benchmarks/tensorrt_static.py            measure, write results/tensorrt_static.json, print the table
    python benchmarks/tensorrt_static.py MODEL...   measure these anew and keep the others of that file
    python benchmarks/tensorrt_static.py --table    print the table of that file

Every network is exported and proven by `debiexport tensorrt` in a process of its own, in native operations and with
plugins, in fp16 and fp32; then TensorRT for RTX builds its graph for sm89. Nothing runs on a GPU here.
About thirty minutes on 2 cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import onnx

from debiexport.bundle import MODEL, open_bundle
from debiexport.environment import describe_environment
from debiexport.targets.tensorrt.gate import compile_gate
from debiexport.targets.tensorrt.profile import Profile

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tensorrt_static.json"
MODELS = ("debi_t", "debi_s", "debi_b", "biformer_t", "debi_s_seg", "debi_nano")
CASES = [
    {"model": model, "precision": precision, "plugins": plugins}
    for model, precision, plugins in product(MODELS, ("fp16", "fp32"), (False, True))
]
GPUS = ("sm89",)
SCANS = "models/debi_nano"


def export(model: str, precision: str, plugins: bool) -> dict[str, Any]:
    """Export once into a temporary folder and build; exit codes other than 0 end the benchmark."""
    options = ["--model", model, "--precision", precision, "--plugins" if plugins else "--no-plugins"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        command = [sys.executable, "-m", "debiexport", "tensorrt", *options, "--engine", "none"]
        begun = time.monotonic()
        process = subprocess.Popen([*command, "--output", str(folder), "--quiet"], stdout=subprocess.DEVNULL, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, code = time.monotonic() - begun, os.waitstatus_to_exitcode(status)
        if code != 0:
            sys.exit(f"debiexport tensorrt {' '.join(options)} ended with {code}")
        row = _row(folder) | {
            "model": model,
            "precision": precision,
            "plugins": plugins,
            "export_s": round(seconds, 1),
            "export_peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        }
        if model == "debi_nano":
            row["accuracy"] = _accuracy(folder)
    print(f"{_name(row)}: {row['psnr_db']} dB, built in {row['parse_s'] + row['build_s']:.1f} s", flush=True)
    return row


def _row(folder: Path) -> dict[str, Any]:
    bundle = open_bundle(folder)
    artifact = bundle.manifest.artifact(MODEL)
    path = folder / artifact.path
    passed = compile_gate(path, None, GPUS, Profile(1, 1, 1))
    found, parity = passed.found, bundle.manifest.parity
    routes = [block for block in parity["routes"] if block["rows"]]
    rows = sum(block["rows"] for block in routes)
    return {
        "image_size": list(bundle.manifest.image_size),
        "psnr_db": min(output["psnr_db"] for output in parity["outputs"]),
        "route_agreement": round(sum(b["agreement"] * b["rows"] for b in routes) / rows, 4) if rows else None,
        "nodes": dict(sorted(Counter(node.op_type for node in onnx.load(str(path)).graph.node).items())),
        "model_mb": round(artifact.bytes / 1e6, 1),
        "native_attentions": passed.attentions,
        "plugin_layers": passed.plugins,
        "layers": len(found.layers),
        "tensor_types": dict(sorted(found.tensor_types().items())),
        "parse_s": round(found.parse_s, 2),
        "build_s": round(found.build_s, 2),
        "build_peak_mb": None if found.peak_rss_mb is None else round(found.peak_rss_mb),
        "plan_mb": round(found.plan_bytes / 1e6, 1),
        "scratch_mb": None if found.scratch_bytes is None else round(found.scratch_bytes / 1e6, 1),
        "gpus": list(found.capabilities),
        "tensorrt_rtx": found.version,
    }


def _accuracy(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "debiexport", "check", str(folder), "--eval", SCANS, "--json"]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, cwd=ROOT).stdout
    accuracy: dict[str, Any] = json.loads(said)["accuracy"]
    return {key: accuracy[key] for key in ("images", "top1")}


TITLES = (
    "network", "precision", "PSNR (dB)", "nodes (casts)", "attentions recognised", "plugins", "layers",
    "parse + build (s)", "peak (GB)", "engine (MB)",
)  # fmt: skip


def table(data: dict[str, Any]) -> str:
    """The table of README.md, in Markdown."""
    lines = [f"| {' | '.join(TITLES)} |", "|---" * len(TITLES) + "|"]
    for row in data["graphs"]:
        nodes = sum(row["nodes"].values())
        peak = "" if row["build_peak_mb"] is None else f"{row['build_peak_mb'] / 1e3:.2f}"
        engine = "not kept" if row["plugins"] else f"{row['plan_mb']:.1f}"
        size = "x".join(map(str, row["image_size"]))
        lines.append(
            f"| {row['model']}, {size} | {row['precision']} | {row['psnr_db']:.1f}"
            f" | {nodes} ({row['nodes'].get('Cast', 0)}) | {row['native_attentions']} of {row['native_attentions']}"
            f" | {row['plugin_layers'] or ''} | {row['layers']} | {row['parse_s'] + row['build_s']:.1f} | {peak}"
            f" | {engine} |"
        )
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']} {row['precision']} {'plugins' if row['plugins'] else 'native'}"


def main() -> None:
    asked = sys.argv[1:]
    if asked != ["--table"]:
        kept = {_key(row): row for row in _recorded()} if asked else {}
        for case in CASES:
            if not asked or case["model"] in asked:
                kept[_key(case)] = export(**case)  # type: ignore[arg-type]
                _record(kept)  # what has been measured is not lost if the next one fails
    print(table(json.loads(RESULTS.read_text())))


def _recorded() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text())["graphs"] if RESULTS.exists() else []


def _record(rows: dict[tuple[str, str, bool], dict[str, Any]]) -> None:
    """Write what has been measured, in the order of `CASES`."""
    data = {
        "command": "python benchmarks/tensorrt_static.py",
        "environment": describe_environment().to_dict(),
        "graphs": [rows[key] for key in map(_key, CASES) if key in rows],
    }
    RESULTS.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")


def _key(row: dict[str, Any]) -> tuple[str, str, bool]:
    return row["model"], row["precision"], row["plugins"]


if __name__ == "__main__":
    main()
