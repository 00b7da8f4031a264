"""One use of a fused operation: the kernel as torch launches it and as TensorRT does, beside what it replaces.

How a time comes about. A CUDA graph holds the same work once for every copy of the inputs, on other memory each time.
There are so many copies that together they are three times as large as the L2 cache: everything is read from memory,
as in a network whose other layers have run meanwhile. (Where `MAX_COPIES` of few small images are less than that,
`copied_bytes` in the result shows it.) The time of a launch is that of the graph over the number of copies; it holds
the way from one kernel of a graph to the next, which `launch_floor_ns` measures alone, and nothing of the host. Results
are kept apart, so that all of them are written to memory too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_cases import REGION, KernelCase, Sizes, input_shapes, moved_bytes
from gpu_device import Captured, Gpu, in_a_line
from gpu_eager import FORMS, Form, make_inputs, reference
from gpu_ptx import Compiler, Launched, kernel_of
from gpu_timing import KERNEL_PLAN, Timings
from torch import Tensor

from debiexport.bench.runner import Plan
from debiexport.bench.statistics import plain

CACHES = 3
"""Times the L2 cache that all copies together take."""

MAX_COPIES, MIN_COPIES = 256, 2
MAX_MEMORY_SHARE = 0.2  # of what is free; outputs of every subject come on top
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}
"""Of the largest number of the output: what the kernels' own tests allow."""

TRITON, PTX = "Triton", "PTX"

Tensors = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """A way to compute a use.

    Attributes:
        prepare: the kernel's inputs -> what `run` takes; not timed.
        run: begins to compute, and gives the output.
        ours: whether it is one of the kernels.
        judged: of the others, whether the goals are about it.
        close: gives back what it holds.
    """

    prepare: Callable[[Tensors], Tensors]
    run: Callable[[Tensors], Tensor]
    ours: bool
    judged: bool = True
    close: Callable[[], None] = lambda: None


def begin_compiling(case: KernelCase, compiler: Compiler) -> None:
    """Have the PTX of a case compiled ahead of need."""
    for index in case.configurations():
        compiler.begin(case.use.operation, case.sizes.with_configuration(index))


def measure_kernel(
    case: KernelCase, gpu: Gpu, bandwidth: float, compiler: Compiler, plan: Plan = KERNEL_PLAN, driver: Any = None
) -> dict[str, Any]:
    """Compare and time all subjects of a case.

    What fails is said under `failed` with its reason, and does not keep the others from being measured. A kernel whose
    output is off is timed and marked: `correct` is false.

    Args:
        case: the use.
        gpu: to run on.
        bandwidth: of its memory, bytes a second.
        compiler: of the PTX.
        plan: of the measurement.
        driver: instead of `cuda.bindings.driver`.
    """
    limit_ms = moved_bytes(case.sizes) / bandwidth * 1e3
    inputs = make_inputs(case.sizes, gpu.device)
    expected = reference(case.sizes, inputs)
    copies = _copies(inputs, gpu)
    timings, failed = Timings(gpu, plan), {}
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as held:
        for name, make in _subjects(case, gpu, compiler, driver):
            try:
                subject = make()
                held.callback(subject.close)
                difference = _relative_error(subject.run(subject.prepare(inputs)), expected)
                timings.add_graph(name, _captured(subject, copies, gpu), len(copies))
            except Exception as error:  # drivers, compilers and torch have no common root
                failed[name] = in_a_line(error)
                continue
            rows[name] = {
                "ours": subject.ours,
                "judged": subject.judged,
                "relative_error": plain(difference),
                "correct": difference <= TOLERANCE[case.precision],
            }
        for name, measured in timings.measure().items():
            rows[name] |= measured | {"times_limit": plain(timings.p50_ms(name) / limit_ms)}
        best = _best(rows)
        ratios = {} if best is None else _ratios(timings, rows, best)
        timings.close()
    return {
        **_described(case),
        "limit_ms": plain(limit_ms),
        "copies": len(copies),
        "copied_bytes": len(copies) * _bytes(inputs),
        "subjects": rows,
        "best": best,
        "ratios": ratios,
        "failed": failed,
    }


def _captured(subject: Subject, copies: Sequence[Tensors], gpu: Gpu) -> Captured:
    """The subject's work on every copy, as one graph."""
    given = [subject.prepare(copy) for copy in copies]
    captured = gpu.capture(lambda: [subject.run(each) for each in given])
    return Captured(captured.replay, (captured.kept, given))  # what the graph reads has to stay as well


def launch_triton(operation: str, sizes: Sizes, inputs: Tensors, out: Tensor) -> None:
    """Launch a configuration as Triton launches kernels."""
    kernel_of(operation)[sizes.grid](*inputs, out, **sizes.constants(), num_warps=sizes.warps, num_stages=sizes.stages)


def _subjects(
    case: KernelCase, gpu: Gpu, compiler: Compiler, driver: Any
) -> Iterator[tuple[str, Callable[[], Subject]]]:
    """The subjects by name; making one may fail."""
    for form in FORMS[case.use.operation]:
        yield form.name, partial(_eager, case, form)
    for index in case.configurations():
        yield f"{TRITON} {index}", partial(_triton, case, index)
    for index in case.configurations():
        yield f"{PTX} {index}", partial(_ptx, case, index, gpu, compiler, driver)


def _eager(case: KernelCase, form: Form) -> Subject:
    sizes = case.sizes
    return Subject(
        lambda inputs: form.prepare(sizes, inputs), lambda given: form.run(sizes, *given), False, form.judged
    )


def _triton(case: KernelCase, index: int) -> Subject:
    """The default configuration through the operator of torch, which takes no other."""
    sizes, operation = case.sizes.with_configuration(index), case.use.operation

    def run(given: Tensors) -> Tensor:
        out = torch.empty_like(given[0])
        launch_triton(operation, sizes, given, out)
        return out

    return Subject(list, run if index else lambda given: _operator(case, given), ours=True)


def _operator(case: KernelCase, inputs: Tensors) -> Tensor:
    if case.use.operation == REGION:
        from debiexport.plugins.region_attention.op import region_attention

        out: Tensor = region_attention(*inputs, case.sizes.heads, case.sizes.regions)
        return out
    from debiexport.plugins.agent_attention.op import agent_attention

    out = agent_attention(*inputs, case.sizes.heads)
    return out


def _ptx(case: KernelCase, index: int, gpu: Gpu, compiler: Compiler, driver: Any) -> Subject:
    sizes = case.sizes.with_configuration(index)
    kernel = Launched.load(compiler.ptx(case.use.operation, sizes), sizes.grid, driver)

    def prepare(inputs: Tensors) -> Tensors:
        """With an output that holds NaN where nothing is written."""
        return [*inputs, torch.full_like(inputs[0], math.nan)]

    def run(given: Tensors) -> Tensor:
        kernel(given, gpu.stream)
        return given[-1]

    return Subject(prepare, run, ours=True, close=kernel.close)


def _copies(inputs: Tensors, gpu: Gpu) -> list[list[Tensor]]:
    """As many copies of the inputs as `CACHES` wants, and as memory holds."""
    each = _bytes(inputs)
    wanted = min(max(math.ceil(CACHES * gpu.l2_bytes / each), MIN_COPIES), MAX_COPIES)
    held = int(MAX_MEMORY_SHARE * gpu.free_bytes / (2 * each))
    return [[x.clone() for x in inputs] for _ in range(max(min(wanted, held), 1))]


def _bytes(tensors: Tensors) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _relative_error(out: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest number of the reference; infinite if the output is not finite."""
    if not bool(torch.isfinite(out).all()):
        return math.inf
    return float((out.double() - expected).abs().max() / expected.abs().max())


def _best(rows: dict[str, dict[str, Any]]) -> str | None:
    """The fastest kernel that is right: as TensorRT launches it, or if none is to be had so, as Triton does."""
    for launch in (PTX, TRITON):
        right = [name for name, row in rows.items() if name.startswith(f"{launch} ") and row["correct"]]
        if right:
            return min(right, key=lambda name: rows[name]["p50_ms"]["value"])
    return None


def _ratios(timings: Timings, rows: dict[str, dict[str, Any]], best: str) -> dict[str, dict[str, float | None]]:
    """How many times as long as the best kernel the others take: the eager forms, and the same kernel by Triton."""
    index = best.rpartition(" ")[2]
    compared = [name for name, row in rows.items() if not row["ours"] or name == f"{TRITON} {index}"]
    return {f"{name} / {best}": timings.ratio(name, best) for name in compared if name != best}


def _described(case: KernelCase) -> dict[str, Any]:
    use, sizes = case.use, case.sizes
    return {
        "kind": "kernel",
        "operation": use.operation,
        "card": use.card,
        "stage": use.stage,
        "role": use.role,
        "uses_per_inference": use.count,
        "precision": case.precision,
        "batch": case.batch,
        "shapes": {name: list(shape) for name, shape in input_shapes(sizes).items()},
        "bytes": moved_bytes(sizes),
        "configurations": {
            str(index): {
                "blocks": list(one.blocks), "warps": one.warps, "stages": one.stages, "grid": list(one.grid),
            }
            for index in case.configurations()
            for one in [sizes.with_configuration(index)]
        },
    }  # fmt: skip
