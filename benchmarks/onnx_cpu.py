"""Latency of the ONNX bundles on a CPU against the network exported as it was released.

    python benchmarks/onnx_cpu.py              measure, write benchmarks/results/onnx_cpu.json, print the table
    python benchmarks/onnx_cpu.py --keep DIR   the same; bundles are left in DIR and taken from there
    python benchmarks/onnx_cpu.py --table      print the table of that file, as it stands in README.md

It needs `pip install '.[export,openvino]'`.

Two threads, batch 1, float32, dynamic-batch bundles as `debiexport onnx` writes them. First everything is exported and
proven, two processes at a time; then, with nothing else running, the subjects of each comparison are timed in turn,
block by block, by `debiexport.bench`. The peak of a matrix product is a subject like the others. About eight minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debiexport.bench.contention import compare
from debiexport.bench.counters import take_snapshot
from debiexport.bench.memory import peak_memory
from debiexport.bench.profile import profile
from debiexport.bench.runner import Measurement, Plan, measure
from debiexport.bench.statistics import paired_ratio, summarise
from debiexport.bench.subjects import BUNDLE, EAGER, OPENVINO, PLAIN, Spec, Subject, load, pool_of
from debiexport.bundle import MODEL, Bundle, open_bundle
from debiexport.cards import load_card
from debiexport.environment import describe_environment, usable_cpus
from debiexport.extras import require
from debiexport.geometry import Geometry
from debiexport.metrics import relative_error
from debiexport.plain import released_gathering
from debiexport.runtimes.openvino import PACKAGES as OPENVINO_PACKAGES

RESULTS = Path(__file__).parent / "results" / "onnx_cpu.json"
THREADS = 2
RELEASED = "eager, as released"
PLAN = Plan(min_time_s=4.0, min_count=60, max_time_s=6.0)
# Runs of seconds each: shorter blocks, or there would be one.
SLOW_PLAN = replace(PLAN, min_count=6, warmup_window_runs=1, block_min_runs=2, dropped_runs=1, max_time_s=12.0)
GEMM_SIDE = 1024
LAYOUT_OPERATIONS = ("Transpose", "ReorderInput", "ReorderOutput", "Reshape", "Unsqueeze", "Expand")
INTERPRETER_MB = 200.0


@dataclass(frozen=True)
class Case:
    """A network at a size and a batch; `plain` says whether the released form is exported beside it."""

    card: str
    size: tuple[int, int]
    plain: bool
    batch: int = 1

    @property
    def name(self) -> str:
        return f"{self.card}_{self.size[0]}" + (f"_b{self.batch}" if self.batch > 1 else "")

    @property
    def multiply_adds(self) -> int:
        return Geometry.of(load_card(self.card), self.size).multiply_adds


TINY = Case("debi_t", (224, 224), plain=True)
TINY_LARGE = Case("debi_t", (448, 448), plain=False)
TINY_BATCH = Case("debi_t", (224, 224), plain=False, batch=8)
OTHERS = (
    Case("debi_s", (224, 224), plain=True),
    Case("debi_b", (224, 224), plain=True),
    Case("biformer_t", (224, 224), plain=True),
    Case("debi_s_seg", (512, 512), plain=True),
)
RATIO_TARGETS = {"debi_s_224": 3.4, "debi_b_224": 3.4, "biformer_t_224": 2.2, "debi_s_seg_512": 3.0}


def prepare(case: Case, folder: str) -> dict[str, Any]:
    """Export a bundle, which proves it, and the released form, which is compared with it on the golden images."""
    import debiexport
    from debiexport.bench.opponents import reference_of
    from debiexport.plain import export_plain
    from debiexport.runtimes.ort import OrtRuntime

    torch.set_num_threads(1)
    path = Path(folder) / case.name
    if not path.exists():
        debiexport.export_onnx(case.card, output=path, image_size=case.size, batch=case.batch)
    bundle = open_bundle(path)
    parity = bundle.manifest.parity
    told = {"relative_error": max(o["relative_error"] for o in parity["outputs"]), "tolerance": parity["tolerance"]}
    if case.plain:
        plain = released(path)
        if not plain.exists():
            plain.write_bytes(export_plain(reference_of(bundle, None), 1).SerializeToString())  # asserts its histogram
        image = pool_of(bundle, 1)[0]
        mine, theirs = (OrtRuntime(model, 1).run({"images": image}) for model in (bundle.file(MODEL), plain))
        told["plain_difference"] = max(relative_error(mine[name], theirs[name]) for name in theirs)
    return told


def gemm() -> Subject:
    """A product of square float32 matrices, as large as the caches hold."""
    a, b = (torch.rand(GEMM_SIDE, GEMM_SIDE) for _ in range(2))
    out = torch.empty_like(a)
    return Subject("sgemm", lambda _: torch.mm(a, b, out=out), [np.zeros(1)])


def ours(bundle: Bundle, name: str = "ours", batch: int = 1) -> Subject:
    """A bundle in memory and the images that it is run on."""
    return Subject(name, load(spec_of(bundle, name, batch)).run, pool_of(bundle, batch))


def spec_of(bundle: Bundle, name: str = "ours", batch: int = 1) -> Spec:
    session = bundle.manifest.session.to_dict()
    return Spec(name, BUNDLE, str(bundle.file(MODEL)), None, batch, THREADS, session=session)


def opponent(kind: str, bundle: Bundle) -> Subject:
    """The released form beside a bundle, in one of its forms."""
    model = bundle.path if kind == EAGER else released(bundle.path)
    return Subject(kind, load(Spec(kind, kind, str(model), None, 1, THREADS)).run, pool_of(bundle, 1))


def eager_as_released(bundle: Bundle) -> Subject:
    """The network in torch, which gathers keys and values as the released code does."""
    eager = opponent(EAGER, bundle)

    def run(images: Any) -> object:
        with released_gathering():
            return eager.run(images)

    return Subject(RELEASED, run, eager.pool)


def released(bundle: Path) -> Path:
    return bundle.with_suffix(".plain.onnx")


def time_all(subjects: Sequence[Subject], say: Callable[[str], None], plan: Plan = PLAN) -> dict[str, Any]:
    """Latencies by name, and the ratio of each to the first."""
    for one in subjects:
        one.run(one.pool[0])
    before = take_snapshot()
    measurements = measure(subjects, plan)
    contention = compare(before, take_snapshot(), usable_cpus())
    rows = {s.name: _row(m) for s, m in zip(subjects, measurements, strict=True)}
    first = measurements[0]
    for one, m in zip(subjects[1:], measurements[1:], strict=True):
        ratio = paired_ratio(m.blocks_ms, first.blocks_ms)
        rows[one.name]["ratio_to_first"] = ratio.to_dict()
    for name, row in rows.items():
        say(f"  {name}: p50 {row['p50_ms']['value']:.2f} ms")
    return {"subjects": rows, "contention": contention.to_dict()}


def _row(measurement: Measurement) -> dict[str, Any]:
    summary = summarise(np.concatenate(measurement.blocks_ms)).to_dict()
    return {**summary, "converged": measurement.converged, "missing": list(measurement.missing)}


def main(keep: Path | None = None) -> None:
    require(OPENVINO_PACKAGES, "python benchmarks/onnx_cpu.py", "openvino")
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:4.0f} s] {line}", flush=True)

    torch.set_num_threads(THREADS)
    cases = (TINY, TINY_LARGE, TINY_BATCH, *OTHERS)
    with tempfile.TemporaryDirectory(prefix="debiexport-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        say(f"exporting and proving {', '.join(case.name for case in cases)}")
        largest_first = sorted(cases, key=lambda case: -case.multiply_adds)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            futures = {case.name: pool.submit(prepare, case, str(folder)) for case in largest_first}
            numerics = {key: future.result() for key, future in futures.items()}
        exporting = round(time.monotonic() - begun)
        data = {"numerics": numerics, **run(folder, say)}
    data["seconds"] = {"exporting": exporting, "all": round(time.monotonic() - begun)}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    print(table(data))


def run(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Time everything that was prepared."""
    bundles = {case: open_bundle(folder / case.name) for case in (TINY, TINY_LARGE, TINY_BATCH, *OTHERS)}
    tiny = bundles[TINY]
    comparisons: dict[str, Any] = {}
    say("debi_t: ours, plain, eager, OpenVINO, and a matrix product")
    opponents = [opponent(kind, tiny) for kind in (PLAIN, EAGER, OPENVINO)]
    comparisons[TINY.name] = time_all([ours(tiny), *opponents, eager_as_released(tiny), gemm()], say)
    say("debi_t: a batch of 8, and 448x448")
    batched = ours(bundles[TINY_BATCH], "ours, batch 8", TINY_BATCH.batch)
    comparisons[TINY_BATCH.name] = time_all([ours(tiny), batched], say)
    comparisons[TINY_LARGE.name] = time_all([ours(tiny), ours(bundles[TINY_LARGE], "ours, 448x448")], say)
    for case in OTHERS:
        say(f"{case.name}: ours and plain")
        plan = SLOW_PLAN if case.size[0] > 448 else PLAN
        comparisons[case.name] = time_all([ours(bundles[case]), opponent(PLAIN, bundles[case])], say, plan)
    say("profile and peak memory of debi_t")
    images = pool_of(tiny, 1)
    memory = peak_memory(spec_of(tiny), images[0])
    return {
        "command": "python benchmarks/onnx_cpu.py",
        "threads": THREADS,
        "environment": describe_environment().to_dict(),
        "plan": PLAN.to_dict(),
        "comparisons": comparisons,
        "profile": profile(spec_of(tiny), images).to_dict(),
        "plain_profile": profile(Spec(PLAIN, PLAIN, str(released(tiny.path)), None, 1, THREADS), images).to_dict(),
        "memory": None if memory is None else {**memory.to_dict(), "model_bytes": tiny.file(MODEL).stat().st_size},
        "multiply_adds": {case.name: case.multiply_adds for case in (TINY, TINY_LARGE, *OTHERS)},
    }


def figures(data: dict[str, Any]) -> list[tuple[str, str, str, bool | None]]:
    """What was asked, the target, what was measured, and whether it is met."""
    comparisons = data["comparisons"]
    rows: list[tuple[str, str, str, bool | None]] = []

    def ratio(label: str, comparison: str, name: str, target: float) -> None:
        found = comparisons[comparison]["subjects"][name]["ratio_to_first"]
        rows.append((label, f"at least {target:g}", _shown(found), found["value"] >= target))

    tiny = comparisons[TINY.name]["subjects"]
    p50 = tiny["ours"]["p50_ms"]["value"]
    ratio("debi_t: plain / ours", TINY.name, PLAIN, 3.5)
    ratio("debi_t: eager as released / ours", TINY.name, RELEASED, 3.5)
    ratio("debi_t: eager reference / ours", TINY.name, EAGER, 3.5)
    ratio("debi_t: plain in OpenVINO / ours", TINY.name, OPENVINO, 2.8)
    peak = 2 * GEMM_SIDE**3 / tiny["sgemm"]["p50_ms"]["value"] / 1e6  # GFLOP/s
    share = 2 * data["multiply_adds"][TINY.name] / p50 / 1e6 / peak
    rows.append(
        (f"debi_t: share of the sgemm peak ({peak:.0f} GFLOP/s)", "at least 42 %", f"{share:.1%}", share >= 0.42)
    )
    for case in OTHERS:
        ratio(f"{case.card} at {case.size[0]}: plain / ours", case.name, PLAIN, RATIO_TARGETS[case.name])
    layout = sum(o["share"] for o in data["profile"]["operations"] if o["name"] in LAYOUT_OPERATIONS)
    rows.append(("debi_t: share of the profile that only moves data", "at most 10 %", f"{layout:.1%}", layout <= 0.10))
    batch = comparisons[TINY_BATCH.name]["subjects"]["ours, batch 8"]["ratio_to_first"]["value"] / TINY_BATCH.batch
    rows.append(("debi_t: an image of a batch of 8 / alone", "at most 1", f"{batch:.2f}", batch <= 1))
    time_ratio = comparisons[TINY_LARGE.name]["subjects"]["ours, 448x448"]["ratio_to_first"]["value"]
    work = data["multiply_adds"][TINY_LARGE.name] / data["multiply_adds"][TINY.name]
    scaling = time_ratio / work
    rows.append(("debi_t: 448 / 224, time over counted work", "at most 1.1", f"{scaling:.2f}", scaling <= 1.1))
    memory = data["memory"]
    if memory is None:
        rows.append(("debi_t: peak memory", "", "unknown", None))
    else:
        limit = 1.3 * memory["model_bytes"] / 1e6 + INTERPRETER_MB
        used = memory["peak_bytes"] / 1e6
        rows.append(("debi_t: peak memory", f"at most {limit:.0f} MB", f"{used:.0f} MB", used <= limit))
    return rows


def _shown(ratio: dict[str, float | None]) -> str:
    """A ratio with its 95 % interval, whose ends may be unknown."""
    value, low, high = ("?" if ratio[key] is None else f"{ratio[key]:.2f}" for key in ("value", "low", "high"))
    return f"{value} ({low} - {high})"


def table(data: dict[str, Any]) -> str:
    """The tables of README.md, in Markdown."""
    lines = ["| network | ours, p50 | plain, p50 | plain / ours |", "|---|---|---|---|"]
    for case in (TINY, *OTHERS):
        subjects = data["comparisons"][case.name]["subjects"]
        mine, plain = (subjects[name]["p50_ms"]["value"] for name in ("ours", PLAIN))
        ratio = _shown(subjects[PLAIN]["ratio_to_first"])
        size = f"{case.size[0]}x{case.size[1]}"
        lines.append(f"| {case.card}, {size} | {mine:.1f} ms | {plain:.1f} ms | {ratio} |")
    lines += ["", "| figure | goal | measured | |", "|---|---|---|---|"]
    for label, goal, measured, met in figures(data):
        lines.append(f"| {label} | {goal} | {measured} | {'' if met is None else 'met' if met else 'missed'} |")
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
