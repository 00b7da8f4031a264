"""What typed graphs for TensorRT hold and cost, without a GPU: PSNR as typed, nodes, and what the compile gate says.

    python benchmarks/tensorrt_static.py            measure, write results/tensorrt_static.json, print the table
    python benchmarks/tensorrt_static.py MODEL...   measure these anew and keep the others of that file
    python benchmarks/tensorrt_static.py --table    print the table of that file

Every network is converted in native operations and with plugins, typed in fp16 and fp32, judged as typed on the parity
images, and built by TensorRT for RTX for sm89; of debi_nano the accuracy on the 360 held-out scans is measured as well.
Nothing runs on a GPU here. About twenty minutes on 2 cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from debiexport.environment import describe_environment

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tensorrt_static.json"
MODELS = ("debi_t", "debi_s", "debi_b", "biformer_t", "debi_s_seg", "debi_nano")
CASES = [(model, plugins) for model in MODELS for plugins in (False, True)]
GPUS = ("sm89",)
SCANS = ROOT / "models" / "debi_nano"
ROWS = "--rows"


def measure(model: str, plugins: bool) -> list[dict[str, Any]]:
    """A row for each precision, made in a process of its own, whose memory goes with it."""
    command = [sys.executable, __file__, ROWS, model, "plugins" if plugins else "native"]
    environment = {"GOMP_SPINCOUNT": "10000", **os.environ}  # as the command line sets it
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT, env=environment).stdout
    rows: list[dict[str, Any]] = json.loads(said)
    for row in rows:
        took = row["parse_s"] + row["build_s"]
        print(f"{model} {row['precision']} {'plugins' if plugins else 'native'}: {row['psnr_db']:.1f} dB, {took:.1f} s")
    return rows


def _rows(model: str, plugins: bool) -> list[dict[str, Any]]:
    from debiexport.evaluate.onnx.evaluator import OnnxEvaluator
    from debiexport.export.tensorrt import OPSET
    from debiexport.geometry import Geometry
    from debiexport.graph.typed import PRECISIONS, typed
    from debiexport.loading import build_reference, load_weights, resolve_card
    from debiexport.lowerings import TENSORRT_LOWERINGS
    from debiexport.oracle import Oracle
    from debiexport.parity import judge
    from debiexport.parity_inputs import parity_images
    from debiexport.static.network import StaticNetwork
    from debiexport.targets.onnx import to_onnx
    from debiexport.targets.tensorrt.gate import compile_gate
    from debiexport.targets.tensorrt.profile import Profile

    card = resolve_card(model)
    side = card.default_image_size
    size = (side, side) if isinstance(side, int) else (side[0], side[1])
    reference = build_reference(load_weights(card, None), size)
    lowering = TENSORRT_LOWERINGS["plugins" if plugins else "native"]
    converted = to_onnx(StaticNetwork.of(reference, size, lowering), batch=1, opset=OPSET)
    oracle, images = Oracle(reference), parity_images(card.preprocessing, size)
    rows = []
    for precision in reversed(PRECISIONS):
        graph = typed(converted, precision)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(graph, str(path))
            passed = compile_gate(path, None, GPUS, Profile(1, 1, 1))
            model_bytes = path.stat().st_size
        evaluator = OnnxEvaluator(graph)
        report = judge(evaluator, oracle, Geometry.of(card, size), images, precision).report
        if not report.ok:
            sys.exit(f"{model} {precision}: {report}")
        found = passed.found
        choosing = [block for block in report.blocks if block.chooses]
        regions = sum(block.rows for block in choosing)
        rows.append(
            {
                "model": model,
                "precision": precision,
                "plugins": plugins,
                "image_size": list(size),
                "psnr_db": round(min(output.psnr_db for output in report.outputs), 2),
                "route_agreement": round(sum(b.agreement * b.rows for b in choosing) / regions, 4) if regions else None,
                "nodes": dict(sorted(Counter(node.op_type for node in graph.graph.node).items())),
                "model_mb": round(model_bytes / 1e6, 1),
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
                **({"scans": _scans(evaluator)} if model == "debi_nano" else {}),
            }
        )
    return rows


def _scans(evaluator: Any) -> dict[str, int]:
    """How many of the held-out scans are classified right."""
    from debiexport.cards import load_card
    from debiexport.preprocess import load_image
    from debiexport.signature import IMAGES

    rule, right, count = load_card("debi_nano").preprocessing, 0, 0
    for path in sorted(SCANS.glob("*/*.png")):
        logits = evaluator.run({IMAGES: load_image(path, rule, (224, 224))[None]})["logits"]
        right, count = right + (int(logits.argmax()) == int(path.parent.name)), count + 1
    return {"right": right, "images": count}


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


def main() -> None:
    asked = sys.argv[1:]
    if asked[:1] == [ROWS]:
        print(json.dumps(_rows(asked[1], asked[2] == "plugins")))
        return
    if unknown := set(asked) - {"--table", *(model for model, _ in CASES)}:
        sys.exit(
            f"no such network: {', '.join(sorted(unknown))}; give some of {', '.join(sorted({m for m, _ in CASES}))}"
        )
    if asked != ["--table"]:
        kept = _recorded() if asked else []
        for model, plugins in CASES:
            if not asked or model in asked:
                others = [row for row in kept if (row["model"], row["plugins"]) != (model, plugins)]
                kept = [*others, *measure(model, plugins)]
                _record(kept)  # what has been measured is not lost if the next one fails
    print(table(json.loads(RESULTS.read_text())))


def _recorded() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text())["graphs"] if RESULTS.exists() else []


def _record(rows: list[dict[str, Any]]) -> None:
    """Write what has been measured, in the order of `CASES`."""
    data = {
        "command": "python benchmarks/tensorrt_static.py",
        "environment": describe_environment().to_dict(),
        "graphs": sorted(rows, key=lambda row: CASES.index((row["model"], row["plugins"]))),
    }
    RESULTS.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
