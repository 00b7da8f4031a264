"""What each fold, implementation and graph pass of the CPU lowering is worth: debi_t at 224x224, batch 1, 2 threads.

    python benchmarks/ablation.py              measure, write benchmarks/results/ablation.json, print the table
    python benchmarks/ablation.py --keep DIR   the same; models are left in DIR and taken from there
    python benchmarks/ablation.py --table      print the table of that file

Every variant is the default export but for one thing, and is timed in turn with it, block by block. Folds are undone
in the exported graph: what had been absorbed stands there as operations again, and the outputs stay the same to
rounding, which is checked. About nine minutes.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from debiexport.bench.contention import compare
from debiexport.bench.counters import take_snapshot
from debiexport.bench.runner import Plan, measure
from debiexport.bench.statistics import paired_ratio
from debiexport.bench.subjects import Subject
from debiexport.cards import load_card
from debiexport.checkpoint import random_checkpoint
from debiexport.environment import describe_environment, usable_cpus
from debiexport.loading import build_reference
from debiexport.lowerings import find_lowering
from debiexport.metrics import relative_error
from debiexport.names import routed_sites
from debiexport.runtimes.ort import OrtRuntime
from debiexport.runtimes.session import RECOMMENDED, SessionOptions
from debiexport.static.network import StaticNetwork
from debiexport.targets.onnx import PASSES, to_onnx

RESULTS = Path(__file__).parent / "results" / "ablation.json"
MODEL, SIZE, THREADS = "debi_t", (224, 224), 2
PLAN = Plan(min_time_s=2.0, min_count=40, max_time_s=5.0, warmup_max_s=3.0)
DEFAULT = "the default"
SESSION = "session=ONNX Runtime's own options"

Edit = Callable[[onnx.ModelProto], int]


def undo_residual(model: onnx.ModelProto) -> int:
    """`dw'(x)` with a raised centre tap -> `x + dw(x)`."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    count = 0
    for node in list(model.graph.node):
        place = node.name.rsplit("/", 1)[0].rsplit(".", 1)[-1]
        if node.op_type != "Conv" or not place.startswith(("pos_embed", "dwc")):
            continue
        kernel = numpy_helper.to_array(weights[node.input[1]]).copy()
        kernel[:, 0, kernel.shape[2] // 2, kernel.shape[3] // 2] -= 1
        weights[node.input[1]].CopyFrom(numpy_helper.from_array(kernel, node.input[1]))
        _insert(model, node, [("Add", [node.input[0]])])
        count += 1
    return count


def undo_affine(model: onnx.ModelProto) -> int:
    """A norm without affine -> the norm, a scale and a shift."""
    norms = [n for n in model.graph.node if n.op_type == "InstanceNormalization"]  # the others have kept theirs
    for node in norms:
        channels = _width(model, node)
        scale, shift = (
            _constant(model, f"{node.name}~{k}", np.full(channels, v, np.float32)) for k, v in (("s", 1), ("b", 0))
        )
        _insert(model, node, [("Mul", [scale]), ("Add", [shift])])
    return len(norms)


def undo_scale(model: onnx.ModelProto) -> int:
    """Attention scales inside projections -> products behind them."""
    scaled = {"bra": ["q/Conv"], "dbra": ["agent_q/Gemm", "agent_k/Gemm"]}
    names = {f"{site.name}.{end}" for site in routed_sites(load_card(MODEL)) for end in scaled[site.kind]}
    nodes = [n for n in model.graph.node if n.name in names]
    for node in nodes:
        one = _constant(model, f"{node.name}~scale", np.ones(1, np.float32) * np.float32(1.0000001))
        _insert(model, node, [("Mul", [one])])
    return len(nodes)


def undo_batch_norm(model: onnx.ModelProto) -> int:
    """Convolutions of the stem and between stages -> followed by a batch norm."""
    nodes = [
        n
        for n in model.graph.node
        if n.op_type == "Conv" and n.name.startswith(("stem.", "stage")) and "block" not in n.name
    ]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        channels = weights[node.input[1]].dims[0]
        names = [
            _constant(model, f"{node.name}~{k}", np.full(channels, v, np.float32))
            for k, v in (("w", 1), ("b", 0), ("m", 0), ("v", 1))
        ]
        _insert(model, node, [("BatchNormalization", names)])
    return len(nodes)


def _width(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    value = next(v for v in model.graph.value_info if v.name == node.output[0])
    return int(value.type.tensor_type.shape.dim[-1].dim_value)


def _constant(model: onnx.ModelProto, name: str, array: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _insert(model: onnx.ModelProto, node: onnx.NodeProto, steps: list[tuple[str, list[str]]]) -> None:
    """Operations behind a node; the last one takes over the name of its output."""
    final, names = node.output[0], [f"{node.output[0]}~{i}" for i in range(len(steps))]
    node.output[0] = names[0]
    position = next(i for i, other in enumerate(model.graph.node) if other.name == node.name)
    for i, (kind, others) in enumerate(steps):
        attributes = {"epsilon": 0.0} if kind == "BatchNormalization" else {}
        out = final if i == len(steps) - 1 else names[i + 1]
        made = helper.make_node(kind, [names[i], *others], [out], name=f"{node.name}~{kind}", **attributes)
        model.graph.node.insert(position + 1 + i, made)


SLOTS = [
    *("heads=permute", "norm=layernorm", "bias=hat", "bias=grid_sample", "sampling=grid_sample"),
    *("routing=gather", "routing=masked", "routing=dense"),
]
FOLDS: dict[str, Edit] = {
    "fold: residual depthwise convolutions": undo_residual,
    "fold: affine of the norms": undo_affine,
    "fold: attention scales": undo_scale,
    "fold: batch norms": undo_batch_norm,
}


def build(variant: str, folder: str) -> dict[str, Any]:
    """Export one variant; its nodes, and how far its outputs are from the reference."""
    path = Path(folder) / f"{re.sub('[^a-z_]+', '-', variant)}.onnx"
    told = path.with_suffix(".json")
    if told.exists():
        return dict(json.loads(told.read_text()))
    torch.set_num_threads(1)
    reference = build_reference(random_checkpoint(load_card(MODEL)), SIZE)
    lowering = find_lowering(variant) if variant in SLOTS else find_lowering("cpu")
    passes = {name: each for name, each in PASSES.items() if f"pass: {name}" != variant}
    model = to_onnx(StaticNetwork.of(reference, SIZE, lowering), batch=None, passes=passes)
    if variant in FOLDS:
        model = onnx.shape_inference.infer_shapes(model)
        if not FOLDS[variant](model):
            raise SystemExit(f"{variant}: nothing to undo was found")
    path.write_bytes(model.SerializeToString())
    runtime, errors = OrtRuntime(path, 1), []
    for image in _images():
        with torch.no_grad():
            wanted = reference(torch.from_numpy(image)).numpy()
        errors.append(relative_error(runtime.run({"images": image})["logits"], wanted))
    error = float(np.median(errors))
    if not error < 1e-4:  # an image may take the other side of a near-tie; a wrong graph is off on every one
        raise SystemExit(f"{variant}: relative error {error:.1e}")
    counts = Counter(node.op_type for node in model.graph.node)
    operations = dict(counts.most_common())
    facts = {"path": str(path), "nodes": counts.total(), "operations": operations, "relative_error": error}
    told.write_text(json.dumps(facts))
    return facts


def _images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((1, 3, *SIZE)).astype(np.float32) for _ in range(4)]


def main(keep: Path | None = None) -> None:
    variants = [*SLOTS, *FOLDS, *(f"pass: {name}" for name in PASSES)]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="debiexport-") as temporary:
        folder = str(keep or temporary)
        Path(folder).mkdir(parents=True, exist_ok=True)
        print(f"exporting {len(variants) + 1} variants", flush=True)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            built = dict(
                zip(
                    (DEFAULT, *variants),
                    pool.map(build, (DEFAULT, *variants), [folder] * (len(variants) + 1)),
                    strict=True,
                )
            )
        before = take_snapshot()
        rows = {name: _compare(built[DEFAULT], built[name], name) for name in variants}
        rows[SESSION] = _compare(built[DEFAULT], built[DEFAULT], SESSION, SessionOptions())
        contention = compare(before, take_snapshot(), usable_cpus())
    data = {
        "command": "python benchmarks/ablation.py",
        "model": MODEL,
        "threads": THREADS,
        "environment": describe_environment().to_dict(),
        "contention": contention.to_dict(),
        "nodes": built[DEFAULT]["nodes"],
        "operations": built[DEFAULT]["operations"],
        "variants": rows,
        "seconds": round(time.monotonic() - begun),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(table(data))


def _compare(
    base: dict[str, Any], other: dict[str, Any], name: str, session: SessionOptions = RECOMMENDED
) -> dict[str, Any]:
    runtimes = [
        OrtRuntime(Path(one["path"]), THREADS, session=options)
        for one, options in ((base, RECOMMENDED), (other, session))
    ]
    subjects = [
        Subject(label, lambda images, runtime=runtime: runtime.run({"images": images}), _images())
        for label, runtime in zip((DEFAULT, name), runtimes, strict=True)
    ]
    first, second = measure(subjects, PLAN)
    ratio = paired_ratio(second.blocks_ms, first.blocks_ms)
    print(f"  {name}: {ratio}", flush=True)
    return {
        "ratio_to_default": ratio.to_dict(),
        "p50_ms": round(float(np.median(np.concatenate(second.blocks_ms))), 3),
        "default_p50_ms": round(float(np.median(np.concatenate(first.blocks_ms))), 3),
        "nodes": other["nodes"],
        "operations": other["operations"],
        "relative_error": other["relative_error"],
    }


def table(data: dict[str, Any]) -> str:
    """In Markdown; slots are replaced, folds and passes are left out."""
    lines = ["| instead of the default | time | nodes |", "|---|---|---|", f"| {DEFAULT} | 1 | {data['nodes']} |"]
    for name, row in data["variants"].items():
        found = row["ratio_to_default"]
        what = name if "=" in name else f"without the {name}"
        lines.append(f"| {what} | {found['value']:.3f} ({found['low']:.3f} - {found['high']:.3f}) | {row['nodes']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))
    elif sys.argv[1:2] == ["--keep"] and len(sys.argv) == 3:
        main(Path(sys.argv[2]))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        main()
