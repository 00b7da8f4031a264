"""`measure_coreml`: a Core ML bundle proven and timed on a Mac, on each choice of compute units.

Each choice has a process of its own. It loads the model, is compared with the stored answers, and only then
timed, by turns with the others. A choice that fails is reported, and the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from debiexport.answer_parity import psnr_gate
from debiexport.bench.contention import compare
from debiexport.bench.coreml_report import CoreMLLatencyResult, Latency, UnitReport
from debiexport.bench.coreml_rounds import Timed, time_by_turns
from debiexport.bench.coreml_units import ProvenUnit, compile_bundle, plan_unit, prove_unit
from debiexport.bench.counters import take_snapshot
from debiexport.bench.report import Ratio, subject_warnings
from debiexport.bench.runner import Plan, with_times
from debiexport.bench.statistics import paired_ratio
from debiexport.bench.subjects import batches
from debiexport.bundle import GOLDEN, MODEL, Bundle, is_unverified, open_bundle
from debiexport.checking import bundle_folder
from debiexport.environment import UNKNOWN, describe_environment, package_versions, usable_cpus
from debiexport.errors import UsageError
from debiexport.golden import Golden, read_golden
from debiexport.manifest import COREML, Artifact
from debiexport.progress import Progress, silent
from debiexport.runtimes import macos
from debiexport.runtimes.compute_plan import ComputePlan
from debiexport.runtimes.coreml_process import TIMEOUT_S, CoreMLProcess, UnitFailed
from debiexport.runtimes.macos import ALL_UNITS
from debiexport.signature import IMAGES


@dataclass
class _Unit:
    """One choice of compute units on its way through a measurement."""

    process: CoreMLProcess
    proven: ProvenUnit
    failure: str | None = None
    timed: Timed | None = None
    plan: ComputePlan | None = None
    plan_failure: str | None = None


def measure_coreml(
    bundle: Bundle | str | Path,
    *,
    batch: int | None = None,
    units: Sequence[str] = ALL_UNITS,
    min_psnr_db: float | None = None,
    min_time: float | None = None,
    max_time: float | None = None,
    plan: Plan | None = None,
    cache: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Progress = silent,
) -> CoreMLLatencyResult:
    """Measure a Core ML bundle on this Mac.

    Args:
        bundle: a bundle of the target "coreml", or its folder.
        batch: which of the bundle's models; by default the first.
        units: choices of compute units, of `ALL_UNITS`.
        min_psnr_db: what the outputs of every image have to reach against the stored answers; by default what the
            manifest's parity holds, see `answer_parity`. What does not reach it is not timed.
        min_time: seconds for which each choice is timed at least.
        max_time: seconds after which it is given up to wait for narrow intervals; by default 20 times `min_time`.
        plan: everything else about the timing; `min_time` and `max_time` replace its own.
        cache: folder of compiled models; by default one in the user's Library/Caches.
        timeout_s: seconds that a load, a prediction or a block may take.
        progress: called with a line at each step.

    Raises:
        UsageError: an option's value, no such folder, another target, or no PSNR to reach.
        BundleError: a file of the bundle is missing, truncated or altered, or Core ML's compiler refuses it.
        MissingDependencyError: this is not macOS, or coremltools is not installed.
    """
    timing, chosen = with_times(plan or Plan(), min_time, max_time), _chosen(units)
    macos.require_macos("measuring a Core ML bundle")
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle_folder(bundle))
    manifest = opened.manifest
    if manifest.target != COREML:
        raise UsageError(f"{opened.path} is a bundle of the target {manifest.target}: give one of {COREML}")
    artifact, gate = _model(opened, batch), psnr_gate(manifest, min_psnr_db)
    taken, function = artifact.batch or 1, artifact.function
    golden = read_golden(opened.file(GOLDEN), opened.geometry, manifest.input)

    compiled, compile_ms = compile_bundle(opened, cache, timeout_s, progress)
    with ExitStack() as stack:
        processes = {unit: stack.enter_context(CoreMLProcess(unit, timeout_s)) for unit in chosen}
        running: dict[str, _Unit] = {}
        for name, process in processes.items():
            proven = prove_unit(process, opened, artifact, compiled, golden, gate, progress)
            running[name] = _Unit(process, proven, proven.failure)
        power_before, before = macos.describe_power(), take_snapshot()
        _time(running, golden, taken, timing, progress)
        contention, power_after = compare(before, take_snapshot(), usable_cpus()), macos.describe_power()
        for unit in running.values():
            unit.plan, unit.plan_failure = plan_unit(unit.process, compiled, function, progress)
    reports = tuple(_describe(name, unit) for name, unit in running.items())
    unproven = ("the bundle lost parity when it was exported: do not deploy it",) if is_unverified(opened) else ()
    return CoreMLLatencyResult(
        bundle=str(opened.path),
        model_sha256=artifact.sha256,
        checkpoint_sha256=manifest.checkpoint_sha256,
        precision=artifact.precision,
        batch=taken,
        function=function,
        compile_ms=compile_ms,
        units=reports,
        ratios=_ratios(reports),
        timing=timing,
        mac=macos.describe_mac(),
        power_before=power_before,
        power_after=power_after,
        contention=contention,
        environment=describe_environment(),
        coremltools=package_versions(macos.PACKAGES).get("coremltools", UNKNOWN),
        notes=unproven,
    )


def _chosen(units: Sequence[str]) -> list[str]:
    """The units, each once."""
    for unit in units:
        if unit not in ALL_UNITS:
            raise UsageError(f"the compute unit is {unit!r}: allowed are {', '.join(ALL_UNITS)}")
    if not units:
        raise UsageError(f"no compute unit: give at least one of {', '.join(ALL_UNITS)}")
    return list(dict.fromkeys(units))


def _model(bundle: Bundle, batch: int | None) -> Artifact:
    """The model that takes a batch; without one, the first."""
    if batch is None:
        return bundle.manifest.artifact(MODEL)
    for artifact in bundle.models:
        if artifact.batch == batch:
            return artifact
    taken = ", ".join(str(artifact.batch) for artifact in bundle.models)
    raise UsageError(f"the batch is {batch}, but {bundle.path} takes a batch of {taken}: give one of those")


def _time(units: dict[str, _Unit], golden: Golden, batch: int, timing: Plan, progress: Progress) -> None:
    """Time those that have not failed."""
    pool = [{IMAGES: images} for images in batches(golden.images, batch)]
    ready = {}
    for name, unit in units.items():
        if unit.failure is None:
            try:
                unit.process.keep(pool)
                ready[name] = unit.process
            except UnitFailed as error:
                unit.failure = str(error)
    if ready:
        progress(f"timing {', '.join(ready)} in blocks by turns, at most {timing.max_time_s * len(ready):g} s")
    for name, found in time_by_turns(ready, timing, progress).items():
        if isinstance(found, UnitFailed):
            units[name].failure = str(found)
        else:
            units[name].timed = found


def _describe(name: str, unit: _Unit) -> UnitReport:
    report = UnitReport(
        unit=name,
        failure=unit.failure,
        load_ms=unit.proven.load_ms,
        first_ms=unit.proven.first_ms,
        parity=unit.proven.parity,
        plan=unit.plan,
        plan_failure=unit.plan_failure,
    )
    if unit.timed is None:
        return report
    measurement, native = unit.timed.measurement, unit.timed.native_blocks_ms
    wall = Latency.of_blocks(measurement.blocks_ms)
    return replace(
        report,
        measurement=measurement,
        wall=wall,
        native=None if native is None else Latency.of_blocks(native),
        native_blocks_ms=native,
        warnings=subject_warnings(measurement, wall.summary),
    )


def _ratios(reports: Sequence[UnitReport]) -> tuple[Ratio, ...]:
    """Of each unit's time to that of the fastest."""
    timed = [(report.unit, report.measurement, report.wall) for report in reports]
    found = [(unit, measured, wall.summary.p50.value) for unit, measured, wall in timed if measured and wall]
    if not found:
        return ()
    fastest, best, _ = min(found, key=lambda entry: entry[2])
    return tuple(
        Ratio(unit, fastest, paired_ratio(measured.blocks_ms, best.blocks_ms), len(measured.blocks))
        for unit, measured, _ in found
        if unit != fastest
    )
