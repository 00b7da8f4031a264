"""`debiexport predict`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.cli.options import Debug, Json, Quiet, Threads, parse_number, parse_threads
from debiexport.cli.output import OUTPUT
from debiexport.errors import UsageError


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[BUNDLE] IMAGE...",
            help="Folder that an export wrote, and image files; with --server image files alone.",
            show_default=False,
        ),
    ],
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="Instead of a bundle: Triton or debiexport serve; grpc://HOST:PORT for gRPC, else HTTP.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Model of the server.")] = None,
    top: Annotated[str, typer.Option("--top", metavar="N", help="Classes per image.")] = "5",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Classify images with a bundle, or with a server that has one."""
    OUTPUT.configure(as_json=as_json, quiet=quiet, debug=debug)
    from debiexport.cli.incomplete import print_result

    classes = parse_number(top, "--top")
    if server is None:
        from debiexport.prediction import predict

        bundle, images = _split(paths, model)
        result = predict(bundle, images, top=classes, threads=parse_threads(threads), keep_going=True)
    else:
        from debiexport.remote import predict_remote

        name = _check_remote(paths, model, threads)
        result = predict_remote(server, name, paths, top=classes, keep_going=True)
    for note in result.notes:
        OUTPUT.note(note)
    print_result("\n".join(map(str, result.predictions)), result.to_dict(), result.failures)


def _split(paths: list[Path], model: str | None) -> tuple[Path, list[Path]]:
    """The bundle and the images."""
    if model is not None:
        raise UsageError(f"--model {model} is of a server: give --server too, or leave --model out")
    if len(paths) < 2:
        raise UsageError(
            "Missing argument 'IMAGE...': give BUNDLE and image files, or --server, --model and image files; see"
            " debiexport predict --help"
        )
    return paths[0], paths[1:]


def _check_remote(paths: list[Path], model: str | None, threads: str | None) -> str:
    """The name of the model; refuses what is of a bundle."""
    if model is None:
        raise UsageError("--server needs --model: give the name of one of its models, as debi_nano")
    if paths[0].is_dir():
        raise UsageError(f"{paths[0]} is a folder: give a bundle or --server, and with --server image files alone")
    if threads is not None:
        raise UsageError(f"--threads {threads} is of a bundle: with --server, its server chooses them")
    return model
