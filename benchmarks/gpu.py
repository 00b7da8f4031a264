"""The fused operations and whole networks on an NVIDIA GPU, against what they replace.

    python benchmarks/gpu.py                     measure, write benchmarks/results/gpu_NAME.json, print the tables
    python benchmarks/gpu.py --budget SECONDS    stop in time; what is missing is said, and is in the file
    python benchmarks/gpu.py --resume            keep what the file has of the same GPU and software, measure the rest
    python benchmarks/gpu.py --only KIND         kernels, networks or onnxruntime
    python benchmarks/gpu.py --output FILE.json  another file
    python benchmarks/gpu.py --table FILE.json   print the tables of a file

It needs a torch that sees the GPU, `pip install '.[tensorrt]'`, and no TensorRT. What is measured, and how, is said at
the beginning of `gpu_cases.py`, `gpu_kernels.py`, `gpu_network.py` and `gpu_onnxruntime.py`, where onnxruntime-gpu is
installed. The file is written anew after every case, so that a run that is cut short loses one case. The GPU is
measured as it is: no clock is set.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_cases import CARDS, Case, KernelCase, NetworkCase, OnnxCase, all_cases
from gpu_report import is_correct, table

from debiexport.atomic import staged_file
from debiexport.errors import DebiexportError, InputError, ParityError, UsageError

if TYPE_CHECKING:  # it needs torch, and --table does not
    from gpu_device import Gpu

RESULTS = Path(__file__).parent / "results"
FORMAT, FORMAT_VERSION = "debiexport-gpu-benchmark", 1
KINDS: dict[str, type] = {"kernels": KernelCase, "networks": NetworkCase, "onnxruntime": OnnxCase}
FIRST_CASE_S = {KernelCase: 40.0, NetworkCase: 60.0, OnnxCase: 240.0}
"""Seconds that are set aside for the first case of a kind; then it is the longest one so far."""

RESERVE = 1.2
METHOD = {
    "kernels": "p50 of CUDA graphs with a launch for each copy of the inputs, over the copies, between CUDA events;"
    " copies take three times the L2 cache, so that inputs come from memory; float64 reference on the GPU",
    "networks": "p50 of CUDA graphs between CUDA events, and of launches operation by operation on the host's clock;"
    " subjects by turns in blocks; ratios with a paired bootstrap; reference in float64 forced to the subject's routes",
    "onnxruntime": "p50 on the host's clock, images and logits on the GPU",
    "limit": "bytes of all inputs and the output, each once, over the bandwidth of a large copy inside the GPU",
}

Say = Callable[[str], None]


@dataclass
class Budget:
    """Seconds that a run may take.

    Attributes:
        seconds: None if it may take any.
        clock: seconds that only run forward.
    """

    seconds: float | None
    clock: Callable[[], float] = time.monotonic
    longest: dict[type, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.begun

    def allows(self, case: Case) -> bool:
        """Whether there is time for a case that takes as long as the longest one of its kind."""
        if self.seconds is None:
            return True
        return self.spent + RESERVE * self.longest.get(type(case), FIRST_CASE_S[type(case)]) <= self.seconds

    def took(self, case: Case, seconds: float) -> None:
        """Note how long a case was."""
        self.longest[type(case)] = max(self.longest.get(type(case), 0.0), seconds)


def run(
    cases: Sequence[Case], gpu: Gpu, data: dict[str, Any], save: Callable[[], None], budget: Budget, say: Say
) -> None:
    """Measure cases one after the other into `data`, which is saved after each.

    Raises:
        DebiexportError: the GPU has stopped to compute; what was measured is saved.
    """
    from gpu_device import clock_state, in_a_line, is_alive
    from gpu_kernels import begin_compiling, measure_kernel
    from gpu_network import measure_network
    from gpu_onnxruntime import measure_onnx
    from gpu_ptx import Compiler

    waiting = [case for case in cases if case.name not in data["cases"]]
    data["missing"] = [case.name for case in waiting]
    group: object = None
    with Compiler() as compiler:
        for place, case in enumerate(waiting):
            if not budget.allows(case):
                continue
            if group != (group := _group(case)):
                for other in waiting[place:]:
                    if isinstance(other, KernelCase) and _group(other) == group:
                        begin_compiling(other, compiler)
            begun = budget.spent
            try:
                if isinstance(case, KernelCase):
                    found = measure_kernel(case, gpu, data["copy_bytes_per_s"], compiler)
                elif isinstance(case, NetworkCase):
                    found = measure_network(case, gpu)
                else:
                    found = measure_onnx(case, gpu)
            except Exception as error:  # a package that is missing, memory that runs out, and the like
                data["failed"][case.name] = in_a_line(error)
                say(f"{case.name}: {data['failed'][case.name]}")
            else:
                data["failed"].pop(case.name, None)
                data["missing"].remove(case.name)
                data["cases"][case.name] = found
                say(_line(case.name, found))
            budget.took(case, budget.spent - begun)
            if place + 1 == len(waiting) or _group(waiting[place + 1]) != group:
                data["states"].append(clock_state())
            data["seconds"] = round(budget.spent)
            save()
            if not is_alive(gpu):
                raise DebiexportError(f"the GPU has stopped to compute at {case.name}: start again with --resume")


def begin(gpu: Gpu, argv: Sequence[str]) -> dict[str, Any]:
    """A result without cases."""
    from gpu_device import clock_state, copy_bandwidth, describe_machine, launch_floor_ns
    from gpu_timing import KERNEL_PLAN, NETWORK_PLAN, plan_dict

    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "command": "python benchmarks/gpu.py",
        "options": list(argv),
        **describe_machine(gpu),
        "method": METHOD,
        "plans": {"kernels": plan_dict(KERNEL_PLAN), "networks": plan_dict(NETWORK_PLAN)},
        "clocks": "as found: nothing is set here, and nvidia-smi does not tell whether they are locked; see states",
        "copy_bytes_per_s": copy_bandwidth(gpu),
        "launch_floor_ns": launch_floor_ns(gpu),
        "states": [clock_state()],
        "cases": {},
        "failed": {},
        "missing": [],
        "seconds": 0,
    }


def resumed(data: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The new result with the cases of an earlier one.

    Raises:
        UsageError: it is of another GPU or of other software.
    """
    for place in ("gpu", "environment"):
        mine, theirs = data[place], earlier[place]
        if place == "environment":
            mine, theirs = mine["packages"], theirs["packages"]
        if mine != theirs:
            differing = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
            raise UsageError(
                f"--resume: the file is of another {place} ({', '.join(differing)} differ): measure anew, or give"
                " another --output"
            )
    return {**data, "cases": earlier["cases"], "states": [*earlier["states"], *data["states"]]}


def read_results(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        UsageError: there is none.
        InputError: it is something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}): give a result of this benchmark"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}): give a result of this benchmark") from error
    if not isinstance(data, dict) or (data.get("format"), data.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise InputError(f"{path} is no result of this benchmark, version {FORMAT_VERSION}")
    return data


def slug(name: str) -> str:
    """A GPU's name as a part of a file's name: "NVIDIA H200" is "nvidia_h200"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _group(case: Case) -> object:
    """Cases in a row that are compiled ahead together and share a look at the clocks."""
    return (case.card, case.precision, case.batch) if not isinstance(case, OnnxCase) else case.card


def _line(name: str, found: dict[str, Any]) -> str:
    best = found["best"]
    if best is None:
        return f"{name}: nothing of ours is right; failed: {', '.join(found['failed']) or 'none'}"
    ratios = ", ".join(f"{key} {ratio['value']:.2f}" for key, ratio in found["ratios"].items())
    failed = f"; failed: {', '.join(found['failed'])}" if found["failed"] else ""
    return f"{name}: {found['subjects'][best]['p50_ms']['value']:.4f} ms, {ratios}{failed}"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, metavar="SECONDS")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only", choices=sorted(KINDS))
    parser.add_argument("--table", type=Path, metavar="FILE.json")
    return parser.parse_args(argv)


def measure_all(options: argparse.Namespace, argv: Sequence[str]) -> None:
    """Measure and print.

    Raises:
        MissingDependencyError: there is no GPU.
        ParityError: something of ours is wrong; everything is in the file.
    """
    from gpu_device import find_gpu

    budget = Budget(options.budget)
    gpu = find_gpu()

    def say(line: str) -> None:
        print(f"[{budget.spent:4.0f} s] {line}", file=sys.stderr, flush=True)

    data = begin(gpu, argv)
    path = options.output or RESULTS / f"gpu_{slug(data['gpu']['name'])}.json"
    if options.resume and path.exists():
        data = resumed(data, read_results(path))
    path.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        with staged_file(path, "--output") as staged:
            staged.commit(json.dumps(data, indent=1) + "\n")

    save()
    kind = KINDS.get(options.only or "", object)
    run([case for case in all_cases(CARDS) if isinstance(case, kind)], gpu, data, save, budget, say)
    print(table(data))
    say(f"{path}: {len(data['cases'])} cases, {len(data['missing'])} missing")
    if not is_correct(data):
        raise ParityError(f"a kernel or network of ours computes something else, see {path}")


def main(argv: Sequence[str]) -> int:
    """The exit code is 0, or that of the error."""
    options = parse(argv)
    try:
        if options.table is not None:
            print(table(read_results(options.table)))
        else:
            measure_all(options, argv)
    except DebiexportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
