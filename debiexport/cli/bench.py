"""`debiexport bench`"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.options import CheckpointOption, Debug, Json, Quiet, Threads, parse_threads
from debiexport.cli.output import OUTPUT

_Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="plain|eager|openvino",
        help="Compare with the network exported as released, run eagerly, or in OpenVINO; may be repeated.",
    ),
]
_MinTime = Annotated[float, typer.Option("--min-time", metavar="S", help="Seconds to time each for, at least.")]
_MaxTime = Annotated[
    float | None,
    typer.Option("--max-time", metavar="S", help="Seconds to wait for narrow intervals (default: 20 x --min-time)."),
]


def command(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Folders that exports wrote.")],
    against: _Against = None,
    checkpoint: CheckpointOption = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", help="Images per run (default: the bundles', or 1).")
    ] = None,
    threads: Threads = None,
    provider: Annotated[
        str, typer.Option("--provider", metavar="cpu|cuda", help="Device of ONNX Runtime; never another silently.")
    ] = "cpu",
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time goes.")] = False,
    min_time: _MinTime = 3.0,
    max_time: _MaxTime = None,
    json_file: Annotated[
        Path | None, typer.Option("--json-file", metavar="FILE", help="Write the result with all samples.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure latency, beside whether the numbers are right, and compare."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    import json

    from debiexport.atomic import staged_file
    from debiexport.bench.measuring import measure_latency

    with nullcontext() if json_file is None else staged_file(json_file, "--json-file") as staged:
        result = measure_latency(
            bundles,
            against=against or (),
            checkpoint=checkpoint,
            batch=batch,
            threads=parse_threads(threads),
            provider=provider,
            profile=profile,
            min_time=min_time,
            max_time=max_time,
            progress=OUTPUT.progress,
        )
        if staged is not None:
            staged.commit(json.dumps(result.to_dict(samples=True), allow_nan=False) + "\n")
    for subject in result.subjects:
        for note in subject.numerics.notes:
            OUTPUT.note(f"{subject.name}: {note}")
    OUTPUT.result(result.report(), result.to_dict())
