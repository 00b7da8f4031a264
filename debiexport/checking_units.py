"""`check` of a Core ML bundle on a Mac: what Core ML itself gives on each choice of compute units.

The package has been evaluated from its files before, as on any machine. That says nothing of Core ML's own compiler
and of the devices, so here the stored images go through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.answer_parity import psnr_gate
from debiexport.bench.coreml_units import ProvenUnit, compile_bundle, plan_unit, prove_unit
from debiexport.bundle import GOLDEN, Bundle
from debiexport.errors import MissingDependencyError
from debiexport.golden import read_golden
from debiexport.progress import Progress, silent
from debiexport.runtimes import macos
from debiexport.runtimes.compute_plan import NEURAL_ENGINE, ComputePlan
from debiexport.runtimes.coreml_process import TIMEOUT_S, CoreMLProcess, UnitFailed
from debiexport.runtimes.macos import ALL_UNITS


@dataclass(frozen=True)
class UnitCheck:
    """One choice of compute units on one model of a bundle.

    Attributes:
        unit: one of `macos.ALL_UNITS`.
        batch: of the model.
        proven: what it gave.
        plan: where Core ML means to run each operation; None if it was not told, and then `plan_failure` says why.
    """

    unit: str
    batch: int
    proven: ProvenUnit
    plan: ComputePlan | None = None
    plan_failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why its numbers are not those of the network, or there are none; None if they are."""
        return self.proven.failure

    @property
    def on_neural_engine(self) -> float | None:
        """Share, 0 to 1, of the estimated cost that Core ML plans for the Neural Engine; None if not known."""
        shares = None if self.plan is None else self.plan.cost_shares
        return None if shares is None else shares[NEURAL_ENGINE]

    def to_dict(self) -> dict[str, Any]:
        parity = self.proven.parity
        return {
            "unit": self.unit,
            "batch": self.batch,
            "ok": self.failure is None,
            "failure": self.failure,
            "parity": None if parity is None else parity.to_dict(),
            "compute_plan": None if self.plan is None else self.plan.to_dict(),
            "no_compute_plan_because": self.plan_failure,
        }

    def __str__(self) -> str:
        text = f"{self.unit}, batch {self.batch}: {self.proven}"
        if self.on_neural_engine is None:
            return f"{text}; no compute plan ({self.plan_failure})" if self.plan_failure and not self.failure else text
        return f"{text}; planned for the Neural Engine: {self.on_neural_engine:.0%} of the cost"


def why_not_asked() -> str | None:
    """Why Core ML itself cannot be asked here; None if it can."""
    if macos.is_mac():
        try:
            macos.require_macos("running the package in Core ML")
        except MissingDependencyError as error:
            return str(error)
        return None
    return "Core ML itself runs on macOS only and was not asked: what was judged is the package as its files say"


def check_units(
    bundle: Bundle,
    *,
    units: Sequence[str] = ALL_UNITS,
    cache: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Progress = silent,
) -> tuple[UnitCheck, ...]:
    """Compare what Core ML gives with the stored answers.

    Every model of the bundle runs on every choice of compute units, each in a process of its own. What fails is an
    entry as well.

    Args:
        bundle: of the target "coreml".
        units: choices of compute units, of `ALL_UNITS`.
        cache: folder of compiled models; by default one in the user's Library/Caches.
        timeout_s: seconds that a load or a prediction may take.
        progress: called with a line at each step.

    Raises:
        UsageError: the manifest does not say what PSNR is to be reached.
        BundleError: the stored answers are damaged, or the package holds no data.
    """
    gate = psnr_gate(bundle.manifest, None)
    golden = read_golden(bundle.file(GOLDEN), bundle.geometry, bundle.manifest.input)
    try:
        compiled, _ = compile_bundle(bundle, cache, timeout_s, progress)
    except UnitFailed as error:
        refused = ProvenUnit(str(error), None, None, None)
        return tuple(UnitCheck(unit, model.batch or 1, refused) for unit in units for model in bundle.models)
    checks: list[UnitCheck] = []
    for unit in units:
        for model in bundle.models:
            with CoreMLProcess(unit, timeout_s) as process:
                proven = prove_unit(process, bundle, model, compiled, golden, gate, progress)
                plan, reason = plan_unit(process, compiled, model.function, progress)
            checks.append(UnitCheck(unit, model.batch or 1, proven, plan, reason))
    return tuple(checks)
