"""`debiexport bench`"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.options import (
    CheckpointOption,
    Debug,
    Json,
    Quiet,
    Threads,
    parse_destination,
    parse_number,
    parse_seconds,
    parse_threads,
)
from debiexport.cli.output import OUTPUT

_Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="plain|eager|openvino",
        help="Compare with the network exported as released, run eagerly, or in OpenVINO; may be repeated.",
    ),
]
_MinTime = Annotated[str, typer.Option("--min-time", metavar="S", help="Seconds to time each subject for, at least.")]
_MaxTime = Annotated[
    str | None,
    typer.Option(
        "--max-time",
        metavar="S",
        help="Seconds to wait for narrow intervals, for each subject (default: 20 x --min-time).",
    ),
]


def command(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Folders that exports wrote.")],
    against: _Against = None,
    checkpoint: CheckpointOption = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="N", help="Images per run (default: the bundles', or 1).")
    ] = None,
    threads: Threads = None,
    provider: Annotated[
        str, typer.Option("--provider", metavar="cpu|cuda", help="Device of ONNX Runtime; never another silently.")
    ] = "cpu",
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time goes.")] = False,
    min_time: _MinTime = "3",
    max_time: _MaxTime = None,
    json_file: Annotated[
        str | None, typer.Option("--json-file", metavar="FILE", help="Write the result with all samples.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure latency, beside whether the numbers are right, and compare.

    A Core ML bundle is measured by itself, on a Mac, on each choice of compute units; a TensorRT bundle by itself, on
    the GPU that its engines were built for.
    """
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    import json

    from debiexport.atomic import staged_file
    from debiexport.bench.measuring import measure_latency
    from debiexport.cli.bench_coreml import bench_coreml
    from debiexport.cli.bench_targets import measured_alone, refuse_options
    from debiexport.cli.bench_tensorrt import bench_tensorrt
    from debiexport.manifest import COREML

    file = parse_destination(json_file, "--json-file")
    target = measured_alone(bundles)
    if target is not None:
        given = {"--against": against, "--checkpoint": checkpoint, "--threads": threads, "--profile": profile or None}
        options = {name: value is not None for name, value in given.items()} | {"--provider": provider != "cpu"}
        refuse_options(target, options)
        measure = bench_coreml if target == COREML else bench_tensorrt
        measure(
            bundles[0],
            batch=None if batch is None else parse_number(batch, "--batch"),
            min_time=parse_seconds(min_time, "--min-time"),
            max_time=None if max_time is None else parse_seconds(max_time, "--max-time"),
            file=file,
        )
        return
    with nullcontext() if file is None else staged_file(file, "--json-file") as staged:
        result = measure_latency(
            bundles,
            against=against or (),
            checkpoint=checkpoint,
            batch=None if batch is None else parse_number(batch, "--batch"),
            threads=parse_threads(threads),
            provider=provider,
            profile=profile,
            min_time=parse_seconds(min_time, "--min-time"),
            max_time=None if max_time is None else parse_seconds(max_time, "--max-time"),
            progress=OUTPUT.progress,
        )
        if staged is not None:
            staged.commit(json.dumps(result.to_dict(samples=True), allow_nan=False) + "\n")
    for subject in result.subjects:
        for note in subject.numerics.notes:
            OUTPUT.note(f"{subject.name}: {note}")
    OUTPUT.result(result.report(), result.to_dict())
