"""A Core ML bundle on each choice of compute units of this Mac, as far as `check` and `bench` have it in common.

A package is compiled once. Each choice then has a process of its own, which loads it, and is compared with the stored
answers. What ends such a process is the failure of that choice only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from debiexport.answer_parity import AnswerParity, PsnrGate, judge_answers
from debiexport.bundle import PACKAGE, Bundle
from debiexport.errors import BundleError, ParityError
from debiexport.golden import Golden
from debiexport.manifest import Artifact
from debiexport.progress import Progress
from debiexport.runtimes import macos
from debiexport.runtimes.compute_plan import ComputePlan
from debiexport.runtimes.coreml_process import CoreMLProcess, ProcessRuntime, UnitFailed


@dataclass(frozen=True)
class ProvenUnit:
    """What one choice of compute units did with a model.

    Attributes:
        failure: why its numbers are not those of the network, or there are none; None if they are.
        load_ms: milliseconds of the first load; None if it failed.
        first_ms: of the first prediction.
        parity: against the stored answers; None if it came to none.
    """

    failure: str | None
    load_ms: float | None
    first_ms: float | None
    parity: AnswerParity | None

    def __str__(self) -> str:
        return self.failure or str(self.parity)


class Described(Protocol):
    """A result."""

    def to_dict(self) -> dict[str, Any]: ...


class UnitsFailed(ParityError):
    """Choices of compute units on which Core ML gives wrong numbers, or none.

    Attributes:
        result: everything that was found, of the others too.
    """

    def __init__(self, path: Path, failures: Sequence[str], result: Described) -> None:
        more = f" and {len(failures) - 1} more failures" if len(failures) > 1 else ""
        super().__init__(
            f"{path}: {failures[0]}{more}; do not deploy it there: export with another --precision or --lowering, or"
            " restrict the app to the other compute units"
        )
        self.result = result


def compile_bundle(
    bundle: Bundle, cache: Path | None, timeout_s: float, progress: Progress
) -> tuple[Path, float | None]:
    """Compile a bundle's package, unless it has been.

    Args:
        bundle: of the target "coreml".
        cache: folder of compiled models; by default one in the user's Library/Caches.
        timeout_s: seconds that it may take.
        progress: told of it.

    Returns:
        The compiled model, and the milliseconds that it took; None where it had been compiled before.

    Raises:
        BundleError: the package holds no data.
        UnitFailed: Core ML refuses it, or its compiler died or hangs.
    """
    package, folder = bundle.path / PACKAGE, cache or macos.default_cache()
    compiled = macos.compiled_path(package, folder)
    if compiled.is_dir():
        return compiled, None
    progress(f"compiling {package.name}")
    with CoreMLProcess(None, timeout_s) as process:
        return process.compile(package, folder)


def prove_unit(
    process: CoreMLProcess,
    bundle: Bundle,
    artifact: Artifact,
    compiled: Path,
    golden: Golden,
    gate: PsnrGate,
    progress: Progress,
) -> ProvenUnit:
    """Load a model, run it for the first time, and compare it with the stored answers.

    Args:
        process: of the choice of compute units.
        bundle: of the target "coreml".
        artifact: which of its models.
        compiled: the package, compiled.
        golden: the stored answers.
        gate: what every image has to reach.
        progress: told of each step.
    """
    runtime = ProcessRuntime(process, artifact.batch or 1, bundle.manifest.labels)
    load_ms, parity = None, None
    try:
        progress(f"{process.unit}: loading")
        load_ms = process.load(compiled, artifact.function)
        progress(f"{process.unit}: loaded in {load_ms:.0f} ms, comparing with the stored answers")
        parity = judge_answers(runtime, golden, bundle.geometry, gate, who="Core ML")
        failure = parity.failure
    except BundleError as error:  # UnitFailed among them
        failure = str(error)
    first_ms = None if runtime.first is None else runtime.first.wall_ms
    progress(f"{process.unit}: {failure or parity}")
    return ProvenUnit(failure, load_ms, first_ms, parity)


def plan_unit(
    process: CoreMLProcess, compiled: Path, function: str | None, progress: Progress
) -> tuple[ComputePlan | None, str | None]:
    """Where Core ML means to run each operation; or None, and why it is not known.

    Args:
        process: of the choice of compute units.
        compiled: the package, compiled.
        function: see `macos.compute_plan`.
        progress: told of it.
    """
    if process.is_lost:
        return None, "its process is lost"
    progress(f"{process.unit}: reading the compute plan")
    try:
        return process.plan(compiled, function), None
    except UnitFailed as error:
        return None, str(error)
