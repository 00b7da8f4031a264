"""Options that every export has, and how its result is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from debiexport.cli.output import OUTPUT

if TYPE_CHECKING:
    from debiexport.export.result import ExportResult

Model = Annotated[str, typer.Option("--model", metavar="NAME|CARD", help="A model's name, or the path of a card.")]
ImageSize = Annotated[str | None, typer.Option("--image-size", metavar="N|HxW", help="Pixels (default: the card's).")]
Regions = Annotated[str | None, typer.Option("--regions", metavar="S", help="Regions per side (default: the card's).")]
TopK = Annotated[
    str | None, typer.Option("--top-k", metavar="a,b,c,d", help="Top-k of DBRA, a value per stage that has it.")
]
BraTopK = Annotated[
    str | None, typer.Option("--bra-top-k", metavar="a,b,c", help="Top-k of BRA, a value per stage that has it.")
]
Classes = Annotated[str | None, typer.Option("--num-classes", metavar="N", help="Classes (default: the checkpoint's).")]
Labels = Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="Class labels, one a line.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")]


def print_export(result: ExportResult, lines: list[str], *, quiet: bool) -> None:
    """The figures of the proof, more lines, and what was written."""
    from debiexport.cli.report import parity_lines

    if quiet:  # otherwise they have been said when they mattered
        for note in result.notes:
            OUTPUT.note(note)
    names = dict.fromkeys([a.path.split("/")[0] for a in result.manifest.artifacts] + ["manifest.json"])
    text = "\n".join([*parity_lines(result.parity), *lines, f"{result.path}: {', '.join(names)}"])
    OUTPUT.result(text, result.to_dict())
