"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of the runtime (default: its own choice).")]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that an export wrote.")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="FILE", help="Released or fine-tuned weights (.pth, .safetensors)."),
]


def parse_batch(text: str) -> int | None:
    """A batch size, or None for "dynamic".

    Raises:
        UsageError: neither a whole number nor "dynamic".
    """
    if text == "dynamic":
        return None
    return _whole(text, "--batch", " or dynamic")


def parse_numbers(text: str | None, option: str) -> list[int] | None:
    """Whole numbers separated by commas.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    return [_whole(part.strip(), option, "s separated by commas") for part in text.split(",")]


def check_threads(threads: int | None) -> int | None:
    """Refuse fewer than one thread."""
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}: give at least 1")
    return threads


def _whole(text: str, option: str, alternative: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise UsageError(f"{option} is {text!r}: give a whole number{alternative}")
    return int(text)
