"""`debiexport bench` of a Core ML bundle."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import typer

from debiexport.cli.output import OUTPUT
from debiexport.errors import MissingDependencyError


def bench_coreml(
    bundle: Path,
    *,
    batch: int | None,
    min_time: float,
    max_time: float | None,
    file: Path | None,
) -> None:
    """Measure, print and write; off a Mac, say what is expected of the Neural Engine, and fail.

    Args:
        bundle: a folder.
        batch, min_time, max_time: see `measure_coreml`.
        file: to write the result with all samples to.

    Raises:
        MissingDependencyError: this is no Mac, or coremltools is not installed.
        UnitsFailed: no choice of compute units could be timed.
    """
    from debiexport.atomic import staged_file
    from debiexport.bench.coreml import measure_coreml
    from debiexport.bench.coreml_units import UnitsFailed
    from debiexport.bundle import open_bundle
    from debiexport.runtimes.macos import require_macos

    opened = open_bundle(bundle)
    try:
        require_macos("measuring a Core ML bundle")
    except MissingDependencyError as error:
        _print_placement(opened.manifest.placement, error)
        raise
    with nullcontext() if file is None else staged_file(file, "--json-file") as staged:
        result = measure_coreml(opened, batch=batch, min_time=min_time, max_time=max_time, progress=OUTPUT.progress)
        if staged is not None:
            staged.commit(json.dumps(result.to_dict(samples=True), allow_nan=False) + "\n")
    if result.timed or not OUTPUT.as_json:
        OUTPUT.result(result.report(), result.to_dict())
    if not result.timed:  # with --json the error holds the result
        raise UnitsFailed(opened.path, result.failures, result)


def _print_placement(placement: dict[str, object] | None, error: MissingDependencyError) -> None:
    """What the manifest expects; with --json the error stands in the same object, which ends the command."""
    from debiexport.placement.report import PlacementReport

    report = None if placement is None else PlacementReport.from_dict(placement)
    if OUTPUT.as_json:
        line = OUTPUT.error(str(error))
        data = None if report is None else report.to_dict()
        OUTPUT.result("", {"placement": data, "error": line, "exit_code": error.exit_code})
        raise typer.Exit(error.exit_code)
    if report is not None:
        OUTPUT.result("\n".join(report.lines()), {})
