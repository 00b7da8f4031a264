"""`debiexport check`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.options import BundleArgument, CheckpointOption, Debug, Json, Quiet, Threads, parse_threads
from debiexport.cli.output import OUTPUT


def command(
    bundle: BundleArgument,
    checkpoint: CheckpointOption = None,
    evaluate_on: Annotated[
        Path | None, typer.Option("--eval", metavar="FOLDER", help="Measure accuracy on a folder of class folders.")
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Prove a bundle again: its files, its numbers, its routes."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.checking import check
    from debiexport.cli.report import parity_lines

    result = check(
        bundle, checkpoint, evaluate_on=evaluate_on, threads=parse_threads(threads), progress=OUTPUT.progress
    )
    for note in result.notes:
        OUTPUT.note(note)
    lines = parity_lines(result.parity)
    if result.accuracy is not None:
        lines.append(f"accuracy: {result.accuracy}")
    OUTPUT.result("\n".join(lines), result.to_dict())
