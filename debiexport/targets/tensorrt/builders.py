"""Which TensorRT builds an engine here, and one call for each.

tensorrt   full TensorRT, for the GPU of this machine
rtx        TensorRT for RTX, which builds for RTX GPUs on any machine
none       no engine: the typed model alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from debiexport.errors import MissingDependencyError, UsageError
from debiexport.extras import missing
from debiexport.progress import Progress
from debiexport.targets.tensorrt.capabilities import CAPABILITIES, check_capabilities
from debiexport.targets.tensorrt.fingerprint import Fingerprint
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.record import EngineRecord
from debiexport.targets.tensorrt.version import RTX, TENSORRT, require_tensorrt

if TYPE_CHECKING:
    from debiexport.targets.tensorrt.gate import Passed

NONE = "none"
ENGINES = (TENSORRT, RTX, NONE)
DEFAULT_CAPABILITIES = ("sm89",)


@dataclass(frozen=True)
class Request:
    """How engines are to be built.

    Attributes:
        kind: one of `ENGINES`.
        capabilities: GPUs of an engine of TensorRT for RTX.
        plugins: whether the models have fused operations, for which the project brings kernels.
        precision: that the engine has to prove, "fp32" or "fp16".
        timing_cache: a file that full TensorRT reads and renews; None for one in the bundle alone.
        note: where the kind was left open, what full TensorRT lacks here, as one sentence; None where it is used.
    """

    kind: str
    capabilities: tuple[str, ...]
    plugins: bool
    precision: str
    timing_cache: Path | None
    note: str | None = None


@dataclass(frozen=True)
class Built:
    """An engine that was written.

    Attributes:
        record: for the manifest; None where the build is a proof only and its engine is not kept.
        text: one line for people, with what it took.
    """

    record: EngineRecord | None
    text: str


def best_engine() -> tuple[str, str | None]:
    """The best kind that this machine can build, and why that is not full TensorRT, if it is not."""
    try:
        require_tensorrt()
    except MissingDependencyError as error:
        kind = NONE if missing(("tensorrt_rtx",)) else RTX
        done = "no engine is built" if kind == NONE else "the engine is built with TensorRT for RTX"
        return kind, f"{done}, since {str(error).partition(': ')[0]}; --engine tensorrt insists"
    return TENSORRT, None


def check_engine(kind: str) -> str:
    """The kind that is asked for.

    Raises:
        UsageError: there is no such kind.
        MissingDependencyError: this machine cannot build it.
    """
    if kind not in ENGINES:
        raise UsageError(f"--engine is {kind!r}: give {', '.join(ENGINES)}")
    if kind == TENSORRT:
        require_tensorrt()
    if kind == RTX and missing(("tensorrt_rtx",)):
        raise MissingDependencyError(
            "--engine rtx needs TensorRT for RTX, which is not installed here: pip install 'debiexport[rtx]' (in a"
            " checkout '.[rtx]'); what works here is --engine none"
        )
    return kind


def request(
    kind: str | None,
    capabilities: Sequence[str] | None,
    *,
    plugins: bool,
    precision: str,
    timing_cache: Path | None,
) -> Request:
    """What is asked for, checked before anything is read.

    Raises:
        UsageError: an option does not go with the kind of engine; see also `check_engine`.
        MissingDependencyError: see `check_engine`.
    """
    checked = None if capabilities is None else check_capabilities(capabilities)
    chosen, note = best_engine() if kind is None else (check_engine(kind), None)
    if checked is not None and chosen != RTX:
        served = "is for the GPU of this machine" if chosen == TENSORRT else "is not built"
        raise UsageError(f"--gpu is for --engine rtx, and with --engine {chosen} the engine {served}: leave --gpu out")
    if timing_cache is not None and chosen != TENSORRT:
        raise UsageError(f"--timing-cache is for --engine tensorrt, and this is --engine {chosen}: leave it out")
    if timing_cache is not None and timing_cache.is_dir():
        raise UsageError(f"--timing-cache {timing_cache} is a folder: give a file")
    return Request(chosen, checked or DEFAULT_CAPABILITIES, plugins, precision, timing_cache, note)


def build(asked: Request, model: Path, profile: Profile, plan: Path, cache: Path, progress: Progress) -> Built:
    """Build an engine of a typed model.

    Args:
        asked: its kind is not "none".
        model: the ONNX file.
        profile: the batches that it is to take.
        plan: where the engine is written.
        cache: where full TensorRT's timing cache is written.
        progress: called with a line at each step.

    Raises:
        EngineError: TensorRT refuses the model or cannot build it.
        ParityError: the engine is not of the precision that was asked for.
        MissingDependencyError, UsageError: see `engine.build_engine`.
    """
    if asked.kind == RTX:
        return _build_rtx(asked, model, profile, plan)
    return _build_full(asked, model, profile, plan, cache, progress)


def _build_rtx(asked: Request, model: Path, profile: Profile, plan: Path) -> Built:
    from debiexport.targets.tensorrt.gate import compile_gate

    passed = compile_gate(model, plan, asked.capabilities, profile)
    found = passed.found
    contents = {
        "layers": len(found.layers),
        "layer_types": dict(sorted(found.layer_types().items())),
        "tensor_types": dict(sorted(found.tensor_types().items())),
        "native_attentions": passed.attentions,
        "scratch_bytes": found.scratch_bytes,
    }
    numbers = tuple(f"{name[2:-1]}.{name[-1]}" for name in found.capabilities)
    record = EngineRecord(model.name, Fingerprint(RTX, found.version, None, numbers), profile, contents)
    return Built(None if passed.plugins else record, _rtx_text(passed, profile, plan.name))


def _rtx_text(passed: Passed, profile: Profile, plan: str) -> str:
    found = passed.found
    gpus = ", ".join(f"{name} ({CAPABILITIES[name]})" for name in found.capabilities)
    took = (
        f"{len(found.layers)} layers, all {passed.attentions} native attentions recognised; parsed in"
        f" {found.parse_s:.1f} s, built in {found.build_s:.1f} s"
    )
    builder = f"TensorRT for RTX {found.version} for {gpus}, batch {profile}"
    if not passed.plugins:
        return f"{plan}: {builder}, {found.plan_bytes / 1e6:.1f} MB; {took}"
    return (
        f"{builder}: takes the graph with {passed.plugins} plugins, {took}; no engine is kept, since it runs no plugins"
        " that carry their kernels: build it with --engine tensorrt where the GPU is"
    )


def _build_full(asked: Request, model: Path, profile: Profile, plan: Path, cache: Path, progress: Progress) -> Built:
    from debiexport.targets.tensorrt.engine import build_engine
    from debiexport.targets.tensorrt.inspector import float32_products, read_inspector, require_precision

    built = build_engine(
        model, profile=profile, timing_cache=asked.timing_cache, plugins=asked.plugins, progress=progress
    )
    summary = read_inspector(built.layers)
    require_precision(summary, asked.precision, float32_products(onnx.load(str(model))))
    plan.write_bytes(built.plan)
    cache.write_bytes(built.timing_cache)
    record = EngineRecord(model.name, built.fingerprint, profile, summary.to_dict())
    return Built(record, f"{plan.name}: {built}; {summary}")
