"""`debiexport check`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.options import BundleArgument, CheckpointOption, Debug, Json, Quiet, Threads, parse_threads
from debiexport.cli.output import OUTPUT
from debiexport.errors import ParityError, UsageError


def command(
    bundle: BundleArgument,
    checkpoint: CheckpointOption = None,
    evaluate_on: Annotated[
        Path | None, typer.Option("--eval", metavar="FOLDER", help="Measure accuracy on a folder of class folders.")
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the first place and operation at which the model is off.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Prove a bundle again: its files, its numbers, its routes."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    if bisect:
        if evaluate_on is not None:
            raise UsageError("--bisect looks for a fault and --eval measures accuracy: give one of them")
        _bisect(bundle, checkpoint, parse_threads(threads))
        return
    from debiexport.checking import CheckResult, check
    from debiexport.cli.incomplete import print_result
    from debiexport.cli.report import check_lines

    try:
        result = check(
            bundle, checkpoint, evaluate_on=evaluate_on, threads=parse_threads(threads), progress=OUTPUT.progress
        )
    except ParityError as error:  # with --json the error holds the result
        found = getattr(error, "result", None)
        if isinstance(found, CheckResult):
            for note in found.notes:
                OUTPUT.note(note)
            if not OUTPUT.as_json:
                OUTPUT.result("\n".join(check_lines(found)), found.to_dict())
        raise
    for note in result.notes:
        OUTPUT.note(note)
    skipped = result.accuracy.skipped if result.accuracy is not None else ()
    print_result("\n".join(check_lines(result)), result.to_dict(), skipped)


def _bisect(bundle: Path, checkpoint: Path | None, threads: int | None) -> None:
    """Print what was found; a lost parity is an error as well, which with --json holds the result."""
    from debiexport.bisecting import BisectFailed
    from debiexport.bisecting import bisect as find
    from debiexport.cli.report import bisect_lines

    result = find(bundle, checkpoint, threads=threads, progress=OUTPUT.progress)
    for note in result.notes:
        OUTPUT.note(note)
    if result.ok or not OUTPUT.as_json:
        OUTPUT.result("\n".join(bisect_lines(result)), result.to_dict())
    if not result.ok:
        raise BisectFailed(result)
