"""`bench` of a TensorRT bundle: every engine is proven on this machine's GPU, and timed if it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.answer_parity import judge_answers, psnr_gate
from debiexport.bench.runner import Plan, with_times
from debiexport.bench.subjects import batches
from debiexport.bench.tensorrt import EngineLatency, measure_engine
from debiexport.bundle import GOLDEN, Bundle, is_unverified, open_bundle
from debiexport.checking import bundle_folder
from debiexport.checking_engines import EngineCheck, EnginesFailed
from debiexport.errors import UsageError
from debiexport.golden import read_golden
from debiexport.manifest import TENSORRT, Artifact
from debiexport.progress import Progress, silent
from debiexport.runtimes.tensorrt import TensorRTRuntime
from debiexport.signature import IMAGES
from debiexport.targets.tensorrt.record import EngineRecord, engine_records


@dataclass(frozen=True, eq=False)
class EngineMeasurement:
    """One engine at one batch.

    Attributes:
        check: its numbers against the stored answers; they hold, or it would not have been timed.
        latency: what was measured.
    """

    check: EngineCheck
    latency: EngineLatency

    def to_dict(self) -> dict[str, Any]:
        return {"check": self.check.to_dict(), "latency": self.latency.to_dict()}


@dataclass(frozen=True, eq=False)
class EnginesResult:
    """The measurement of a bundle.

    Attributes:
        bundle: its folder.
        precision: of its engines.
        engines: one entry each, in the manifest's order.
        notes: what a user should know.
    """

    bundle: str
    precision: str
    engines: tuple[EngineMeasurement, ...]
    notes: tuple[str, ...]

    def report(self) -> str:
        """For people."""
        lines = []
        for engine in self.engines:
            latency = engine.latency
            lines += [f"{latency.engine} ({self.precision}), {latency.fingerprint}, batch {latency.batch}"]
            lines += [f"  {line}" for line in str(latency).splitlines()]
            lines += [
                f"  {latency.images_per_s:.0f} images/s at concurrency 1; {latency.uploaded_bytes / 1e6:.2f} MB to the"
                f" GPU and {latency.downloaded_bytes / 1e6:.3f} MB back in every run",
                f"  {engine.check.parity}",
                *(f"  WARNING: {warning}" for warning in latency.warnings),
            ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": self.bundle,
            "precision": self.precision,
            "engines": [engine.to_dict() for engine in self.engines],
            "notes": list(self.notes),
        }


def measure_engines(
    bundle: str | Path | Bundle,
    *,
    batch: int | None = None,
    min_time: float | None = None,
    max_time: float | None = None,
    plan: Plan | None = None,
    progress: Progress = silent,
) -> EnginesResult:
    """Measure the engines of a TensorRT bundle on this machine's GPU.

    Args:
        bundle: a bundle of the target "tensorrt", or its folder.
        batch: images per run; by default what each engine is tuned for.
        min_time: seconds for which each launch is timed at least.
        max_time: seconds after which it is given up to wait for narrow intervals; by default 20 times `min_time`.
        plan: everything else about the timing; `min_time` and `max_time` replace its own.
        progress: called with a line at each step.

    Raises:
        UsageError: an option's value, no such folder, another target, no engine, or none that takes the batch.
        BundleError: a file of the bundle is missing, truncated or altered, or TensorRT refuses an engine.
        MissingDependencyError: there is no GPU or TensorRT here, or an engine is of another one.
        EnginesFailed: an engine gives other numbers than the network; it is not timed.
        DebiexportError: TensorRT or CUDA fails.
    """
    timing = with_times(plan or Plan(), min_time, max_time)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle_folder(bundle))
    if opened.manifest.target != TENSORRT:
        raise UsageError(f"{opened.path} is a bundle of the target {opened.manifest.target}: give one of {TENSORRT}")
    chosen = list(_chosen(opened, batch))
    gate = psnr_gate(opened.manifest, None)
    golden = read_golden(opened.file(GOLDEN), opened.geometry, opened.manifest.input)
    measured = []
    for artifact, record in chosen:
        taken = batch or record.profile.opt
        with _running(opened, artifact, record) as runtime:
            progress(f"comparing {artifact.path} with the stored answers, batch {taken}")
            parity = judge_answers(runtime, golden, opened.geometry, gate, batch=taken, who=artifact.path)
            check = EngineCheck(artifact.path, taken, parity)
            if check.failure is not None:
                raise EnginesFailed(opened.path, [str(check)], None)
            progress(f"timing {artifact.path}")
            pool = [{IMAGES: images} for images in batches(golden.images, taken)]
            measured.append(EngineMeasurement(check, measure_engine(runtime, pool, timing, progress=progress)))
    unproven = ("the bundle lost parity when it was exported: do not deploy it",) if is_unverified(opened) else ()
    return EnginesResult(str(opened.path), opened.models[0].precision, tuple(measured), unproven)


def _chosen(bundle: Bundle, batch: int | None) -> Iterator[tuple[Artifact, EngineRecord]]:
    """The engines that take a batch, or all."""
    records = engine_records(bundle)
    if not records:
        raise UsageError(
            f"{bundle.path} has no engine to be measured: export it where the GPU is, debiexport tensorrt --engine"
            " tensorrt"
        )
    fitting = [(a, record) for a, record in records if batch is None or record.profile.admits(batch)]
    if not fitting:
        taken = ", ".join(str(record.profile) for _, record in records)
        raise UsageError(f"the batch is {batch}, but the engines of {bundle.path} take {taken}: give one of those")
    yield from fitting


@contextmanager
def _running(bundle: Bundle, artifact: Artifact, record: EngineRecord) -> Iterator[TensorRTRuntime]:
    runtime = TensorRTRuntime(bundle.path / artifact.path, record.fingerprint)
    try:
        yield runtime
    finally:
        runtime.close()
