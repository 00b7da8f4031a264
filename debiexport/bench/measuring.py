"""`measure_latency`: bundles proven, loaded, timed in turn with their opponents, and described."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.bench.contention import compare
from debiexport.bench.counters import take_snapshot
from debiexport.bench.memory import peak_memory
from debiexport.bench.opponents import check_opponents, prepare
from debiexport.bench.profile import profile as profile_of
from debiexport.bench.report import LatencyResult, Numerics, Ratio, SubjectReport, subject_warnings
from debiexport.bench.runner import Measurement, Plan, measure, with_times
from debiexport.bench.statistics import paired_ratio, summarise
from debiexport.bench.subjects import (
    BUNDLE,
    EAGER,
    OPENVINO,
    Loaded,
    Spec,
    Subject,
    batch_of,
    load,
    normalised,
    pool_of,
    unique_names,
)
from debiexport.bundle import MODEL, Bundle, is_unverified, open_bundle, sha256_of
from debiexport.checking import bundle_folder, check
from debiexport.environment import check_threads, describe_environment, usable_cpus
from debiexport.errors import UsageError
from debiexport.manifest import COREML, TENSORRT, Manifest
from debiexport.progress import Progress, silent
from debiexport.runtimes.base import Array
from debiexport.runtimes.ort import CPU, check_provider

MAX_BATCH = 1024
_MEASURED_ALONE = {COREML: ("Core ML", "measure_coreml"), TENSORRT: ("TensorRT", "measure_engines")}


@dataclass(frozen=True)
class _Proven:
    """A subject whose numbers are right, and what it is run on."""

    spec: Spec
    numerics: Numerics
    bundle: Bundle
    pool: list[Array]


@dataclass(frozen=True)
class _Ready:
    """A subject in memory, and how long it took to get there."""

    proven: _Proven
    loaded: Loaded
    load_ms: float
    first_ms: float


def measure_latency(
    bundles: Sequence[str | Path],
    *,
    against: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    batch: int | None = None,
    threads: int | None = None,
    provider: str = CPU,
    profile: bool = False,
    min_time: float | None = None,
    max_time: float | None = None,
    plan: Plan | None = None,
    progress: Progress = silent,
) -> LatencyResult:
    """Measure how long bundles take, beside whether they are right.

    All subjects are timed in one process in turn, see `bench.runner`; nothing is timed that lost parity.

    Args:
        bundles: folders.
        against: opponents built from the bundles' weights: "plain" (exported as released, in ONNX Runtime), "eager"
            (the reference in torch), "openvino" (the plain export in OpenVINO).
        checkpoint: the file that the bundles were exported from.
        batch: images per run; by default the bundles' own, or 1.
        threads: of the runtimes; None lets each choose.
        provider: "cpu" or "cuda".
        profile: say where the time goes, for what ONNX Runtime runs.
        min_time: seconds for which each subject is timed at least.
        max_time: seconds after which it is given up to wait for narrow intervals; by default 20 times `min_time`.
        plan: everything else about the measurement; `min_time` and `max_time` replace its own.
        progress: called with a line at each step.

    Raises:
        UsageError: an option's value, no such folder, bundles that do not fit together, or weights that are missing.
        BundleError: a file of a bundle is missing, truncated or altered.
        ParityError: a bundle or an opponent does not compute the network.
        MissingDependencyError: a package or the provider is not here.
    """
    times = with_times(plan or Plan(), min_time, max_time)
    check_threads(threads)
    if isinstance(bundles, str | Path):
        raise UsageError(f"the bundles are {str(bundles)!r}: give a list of folders")
    if not bundles:
        raise UsageError("no bundle: give the folder of at least one")
    check_provider(provider)
    source = None if checkpoint is None else str(checkpoint)
    opponents = list(dict.fromkeys(against))
    opened = [open_bundle(bundle_folder(path)) for path in bundles]
    for bundle in opened:
        if bundle.manifest.target in _MEASURED_ALONE:
            name, function = _MEASURED_ALONE[bundle.manifest.target]
            raise UsageError(f"{bundle.path} is a {name} bundle: measure it by itself, with {function}")
    chosen = _common_batch(opened, batch)
    check_opponents(opponents, opened, source, provider)

    with tempfile.TemporaryDirectory(prefix="debiexport-") as folder:
        proven = [
            _prove(name, bundle, source, chosen, threads, provider, progress)
            for name, bundle in zip(unique_names([str(b.path) for b in opened]), opened, strict=True)
        ]
        if opponents:
            pool = normalised(proven[0].pool, opened[0].manifest.card.preprocessing)
            prepared = prepare(
                opponents,
                opened[0],
                source,
                batch=chosen,
                threads=threads,
                provider=provider,
                folder=Path(folder),
                progress=progress,
            )
            proven += [_Proven(spec, numerics, opened[0], pool) for spec, numerics in prepared]

        ready = [_load(one) for one in proven]
        progress(f"timing {len(ready)} in blocks by turns, at most {times.max_time_s * len(ready):g} s")
        before = take_snapshot()
        measurements = measure(
            [Subject(r.proven.spec.name, r.loaded.run, r.proven.pool) for r in ready], times, progress=progress
        )
        contention = compare(before, take_snapshot(), usable_cpus())
        progress("measuring peak memory, each in a process of its own")
        subjects = tuple(_describe(r, m, profile=profile) for r, m in zip(ready, measurements, strict=True))
    return LatencyResult(
        subjects=subjects,
        ratios=_ratios(subjects, [r.proven.bundle.manifest for r in ready]),
        plan=times,
        contention=contention,
        environment=describe_environment(),
        command=_command(opened, opponents, source, chosen, threads, provider, profile, times),
    )


def _common_batch(bundles: Sequence[Bundle], asked: int | None) -> int:
    if asked is not None and not 1 <= asked <= MAX_BATCH:
        raise UsageError(f"--batch is {asked}: allowed are 1 to {MAX_BATCH}")
    fixed = {str(b.path): n for b in bundles if (n := batch_of(b)) is not None}
    if asked is None and len(set(fixed.values())) > 1:
        (a, m), (b, n) = sorted(fixed.items(), key=lambda item: item[1])[:: len(fixed) - 1]
        raise UsageError(f"{a} takes a batch of {m}, {b} of {n}: compare bundles of one batch")
    wanted = asked if asked is not None else next(iter(fixed.values()), 1)
    for path, n in fixed.items():
        if n != wanted:
            raise UsageError(
                f"--batch is {wanted}, but {path} takes a batch of {n}: leave --batch out, or export with --batch"
                f" {wanted}"
            )
    return wanted


def _prove(
    name: str,
    bundle: Bundle,
    checkpoint: str | None,
    batch: int,
    threads: int | None,
    provider: str,
    progress: Progress,
) -> _Proven:
    result = check(bundle.path, checkpoint, threads=threads, provider=provider, progress=progress)
    session = bundle.manifest.session.to_dict()
    spec = Spec(name, BUNDLE, str(bundle.file(MODEL)), None, batch, threads, provider, session)
    return _Proven(spec, Numerics.of_report(result.parity, result.notes), bundle, pool_of(bundle, batch))


def _load(proven: _Proven) -> _Ready:
    begun = time.perf_counter_ns()
    loaded = load(proven.spec)
    middle = time.perf_counter_ns()
    loaded.run(proven.pool[0])
    return _Ready(proven, loaded, (middle - begun) / 1e6, (time.perf_counter_ns() - middle) / 1e6)


def _describe(ready: _Ready, measurement: Measurement, *, profile: bool) -> SubjectReport:
    import numpy as np

    proven, spec = ready.proven, ready.proven.spec
    manifest = proven.bundle.manifest
    latency = summarise(np.concatenate(measurement.blocks_ms))
    warnings = subject_warnings(measurement, latency)
    if spec.kind == BUNDLE and is_unverified(proven.bundle):
        warnings = ("it lost parity when it was exported: do not deploy it", *warnings)
    return SubjectReport(
        name=spec.name,
        kind=spec.kind,
        model_sha256=None if spec.kind == EAGER else sha256_of(Path(spec.model)),
        checkpoint_sha256=manifest.checkpoint_sha256,
        precision=manifest.artifact(MODEL).precision if spec.kind == BUNDLE else "float32",
        batch=spec.batch,
        input_shape=proven.pool[0].shape,
        input_dtype=str(proven.pool[0].dtype),
        runtime=ready.loaded.runtime,
        options=ready.loaded.options,
        load_ms=ready.load_ms,
        first_ms=ready.first_ms,
        measurement=measurement,
        latency=latency,
        numerics=proven.numerics,
        memory=peak_memory(spec, proven.pool[0]),
        profile=profile_of(spec, proven.pool) if profile and spec.kind not in (EAGER, OPENVINO) else None,
        warnings=warnings,
    )


def _ratios(subjects: Sequence[SubjectReport], manifests: Sequence[Manifest]) -> tuple[Ratio, ...]:
    """Of each opponent to each bundle; without opponents, of the first bundle to each other."""
    described = list(zip(subjects, manifests, strict=True))
    ours = [(s, m) for s, m in described if s.kind == BUNDLE]
    theirs = [(s, m) for s, m in described if s.kind != BUNDLE]
    pairs = [(a, b) for a in theirs for b in ours] if theirs else [(ours[0], b) for b in ours[1:]]
    return tuple(
        Ratio(
            a.name,
            b.name,
            paired_ratio(a.measurement.blocks_ms, b.measurement.blocks_ms),
            len(a.measurement.blocks),
            difference_note(a_manifest, b_manifest),
        )
        for (a, a_manifest), (b, b_manifest) in pairs
    )


def difference_note(a: Manifest, b: Manifest) -> str | None:
    """That two bundles are not of one network at one image size, so that their ratio is no gain; None if they are."""
    if (a.card, a.image_size) == (b.card, b.image_size):
        return None
    one, other = (f"{m.card.name} at {'x'.join(map(str, m.image_size))}" for m in (a, b))
    if one == other:
        return f"these are different networks, both {one} with options or cards that differ"
    kind = "different networks" if a.card != b.card else "different image sizes"
    return f"these are {kind}: {one}, and {other}"


def _command(
    bundles: Sequence[Bundle],
    opponents: Sequence[str],
    checkpoint: str | None,
    batch: int,
    threads: int | None,
    provider: str,
    profile: bool,
    plan: Plan,
) -> str:
    words: list[Any] = ["debiexport", "bench", *(b.path for b in bundles)]
    for name in opponents:
        words += ["--against", name]
    if checkpoint is not None:
        words += ["--checkpoint", checkpoint]
    words += ["--batch", batch]
    if threads is not None:
        words += ["--threads", threads]
    words += ["--provider", provider, *(["--profile"] if profile else [])]
    words += ["--min-time", f"{plan.min_time_s:g}", "--max-time", f"{plan.max_time_s:g}"]
    return shlex.join(map(str, words))
