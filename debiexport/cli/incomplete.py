"""Results that some images are missing from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from debiexport.cli.output import OUTPUT

if TYPE_CHECKING:
    from debiexport.image_batches import ImageFailure


def print_result(text: str, data: Mapping[str, Any], failures: Sequence[ImageFailure]) -> None:
    """Print a result, then a line for every image that could not be used, and exit with its code if there is one.

    Of several codes the largest is taken: a file's content (4) rather than a file that is not there (2).
    """
    if not failures:
        OUTPUT.result(text, data)
        return
    code = max(failure.exit_code for failure in failures)
    first = " ".join(failures[0].reason.split())
    summary = first if len(failures) == 1 else f"{len(failures)} images could not be used; the first: {first}"
    if text or OUTPUT.as_json:
        OUTPUT.result(text, {**data, "error": summary, "exit_code": code})
    for failure in failures:
        OUTPUT.error(failure.reason)
    raise typer.Exit(code)
