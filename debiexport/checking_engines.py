"""`check` of a TensorRT bundle: what its engines give on this machine's GPU.

The typed models have been evaluated before, as on any machine. That says nothing of TensorRT's own compiler and of the
GPU, so here the stored images go through the engines: at the smallest batch and at the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.answer_parity import AnswerParity, judge_answers, psnr_gate
from debiexport.bundle import GOLDEN, Bundle
from debiexport.errors import DebiexportError, MissingDependencyError, ParityError
from debiexport.golden import read_golden
from debiexport.progress import Progress, silent
from debiexport.runtimes.tensorrt import TensorRTRuntime
from debiexport.targets.tensorrt.record import engine_records


@dataclass(frozen=True)
class EngineCheck:
    """An engine at one batch.

    Attributes:
        engine: its file in the bundle.
        batch: images per run.
        parity: what it gave; None if it gave nothing.
        refused: why it gave nothing.
    """

    engine: str
    batch: int
    parity: AnswerParity | None
    refused: str | None = None

    @property
    def failure(self) -> str | None:
        """Why its numbers are not those of the network, or there are none; None if they are."""
        return self.refused if self.parity is None else self.parity.failure

    def to_dict(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "batch": self.batch,
            "ok": self.failure is None,
            "failure": self.failure,
            "parity": None if self.parity is None else self.parity.to_dict(),
        }

    def __str__(self) -> str:
        return f"{self.engine}, batch {self.batch}: {self.failure or self.parity}"


class EnginesFailed(ParityError):
    """Engines that give other numbers than the network, or none.

    Attributes:
        result: what was found out, a `CheckResult`.
    """

    def __init__(self, path: Path, failures: Sequence[str], result: object) -> None:
        more = f" and {len(failures) - 1} more failures" if len(failures) > 1 else ""
        super().__init__(f"{path}: {failures[0]}{more}; do not deploy it, build it again on this machine")
        self.result = result


def why_not_run(bundle: Bundle) -> str | None:
    """Why no engine of the bundle can be run here; None if one may be.

    Raises:
        BundleError: the manifest's entry of an engine is damaged.
    """
    records = engine_records(bundle)
    if not records:
        return "the bundle has no engine: what was judged is the typed model"
    from debiexport.targets.tensorrt.version import require_flavour

    try:
        require_flavour(records[0][1].fingerprint.flavour, "running an engine")
    except MissingDependencyError as error:
        return f"no engine was run, what was judged is the typed model: {error}"
    return None


def check_engines(bundle: Bundle, progress: Progress = silent) -> tuple[EngineCheck, ...]:
    """Compare what the engines give with the stored answers. An engine that fails while it runs is an entry as well.

    Args:
        bundle: of the target "tensorrt", on a machine that can run engines.
        progress: called with a line at each step.

    Raises:
        UsageError: the manifest does not say what PSNR is to be reached.
        BundleError: the stored answers or the manifest are damaged, or TensorRT refuses an engine.
        MissingDependencyError: an engine is of another TensorRT or GPU.
    """
    gate = psnr_gate(bundle.manifest, None)
    golden = read_golden(bundle.file(GOLDEN), bundle.geometry, bundle.manifest.input)
    checks: list[EngineCheck] = []
    for artifact, record in engine_records(bundle):
        batches = dict.fromkeys((record.profile.min, record.profile.max))
        progress(f"running {artifact.path} at batch {' and '.join(map(str, batches))}")
        runtime = TensorRTRuntime(bundle.path / artifact.path, record.fingerprint)
        try:
            for batch in batches:
                parity = judge_answers(runtime, golden, bundle.geometry, gate, batch=batch, who=artifact.path)
                checks.append(EngineCheck(artifact.path, batch, parity))
        except DebiexportError as error:
            checks.append(EngineCheck(artifact.path, batch, None, str(error)))
        finally:
            with suppress(DebiexportError):  # CUDA repeats an error of the work, which stands in the entry
                runtime.close()
    return tuple(checks)
