"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from debiexport.environment import check_threads
from debiexport.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
Threads = Annotated[
    str | None, typer.Option("--threads", metavar="N", help="Threads of the runtime (default: its own choice).")
]
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
    return parse_number(text, "--batch", "a whole number or dynamic")


def parse_numbers(text: str | None, option: str) -> list[int] | None:
    """Whole numbers separated by commas.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    return [parse_number(part.strip(), option, "whole numbers separated by commas") for part in text.split(",")]


def parse_threads(text: str | None) -> int | None:
    """Threads of a runtime.

    Raises:
        UsageError: not a whole number, or see `check_threads`.
    """
    return check_threads(None if text is None else parse_number(text, "--threads", "a whole number"))


def parse_seconds(text: str, option: str) -> float:
    """Seconds; whether there are enough of them is the command's to say.

    Raises:
        UsageError: no number.
    """
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option} is {text!r}: give seconds, as 3 or 0.5") from None


def parse_destination(text: str | None, option: str) -> Path | None:
    """A path that is to be written. An empty one would be the folder that the command is run in.

    Raises:
        UsageError: it is empty.
    """
    if text is not None and not text.strip():
        raise UsageError(f"{option} is empty: give a path, or leave {option} out")
    return None if text is None else Path(text)


def parse_number(text: str, option: str, wanted: str = "a whole number") -> int:
    """A whole number.

    Raises:
        UsageError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise UsageError(f"{option} is {text!r}: give {wanted}")
    return int(text)
