"""Long lines for people, broken where a terminal would break them, but never inside of a command."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 110
_TIED = "\u00a0"  # stands for a space at which no line may end


def wrapped(line: str, commands: Sequence[str] = (), indent: str = "  ") -> list[str]:
    """The line in pieces of at most `WIDTH` columns, the later ones indented further.

    Each of the commands stays whole, however long it is, so that it can be copied; a chain of them may break
    behind `&&`, where a shell reads on.
    """
    for command in sorted(commands, key=len, reverse=True):
        line = line.replace(command, command.replace(" ", _TIED))
    pieces = textwrap.wrap(
        line.replace(" && ", f"{_TIED}&& "),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [piece.replace(_TIED, " ") for piece in pieces]
