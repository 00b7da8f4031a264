"""`debiexport predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.options import BundleArgument, Debug, Json, Quiet, Threads, parse_number, parse_threads
from debiexport.cli.output import OUTPUT


def command(
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[str, typer.Option("--top", metavar="N", help="Classes per image.")] = "5",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Classify images with a bundle."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.cli.incomplete import print_result
    from debiexport.prediction import predict

    result = predict(bundle, images, top=parse_number(top, "--top"), threads=parse_threads(threads), keep_going=True)
    for note in result.notes:
        OUTPUT.note(note)
    print_result("\n".join(map(str, result.predictions)), result.to_dict(), result.failures)
