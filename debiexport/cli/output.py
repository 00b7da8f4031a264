"""Where words go: the result to stdout, everything else to stderr.

With --json stdout holds exactly one JSON object, also when the command fails.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Output:
    """How the running command speaks.

    Attributes:
        as_json: one JSON object on stdout.
        quiet: no progress on stderr.
        debug: tracebacks of failures on stderr.
    """

    as_json: bool = False
    quiet: bool = False
    debug: bool = False
    _begun: float = field(default_factory=time.monotonic)

    def configure(self, *, as_json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        """Set by each command from its options."""
        self.as_json, self.quiet, self.debug = as_json, quiet, debug

    def progress(self, line: str) -> None:
        """A step, with the seconds since the start. Warnings are said even if quiet."""
        if not self.quiet or line.startswith("WARNING"):
            print(f"[{time.monotonic() - self._begun:6.1f} s] {line}", file=sys.stderr, flush=True)

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        """The result, for people or for programs."""
        print(json.dumps(data, allow_nan=False) if self.as_json else printable(text), flush=True)

    def note(self, line: str) -> None:
        """Something a user should know beside the result."""
        print(f"note: {line}", file=sys.stderr, flush=True)

    def error(self, message: str) -> str:
        """Something that went wrong, in one line, which is returned."""
        line = " ".join(message.split())
        print(f"error: {line}", file=sys.stderr, flush=True)
        return line

    def failure(self, message: str, code: int, data: Mapping[str, Any] | None = None) -> None:
        """The one line of an error."""
        line = self.error(message)
        if self.as_json:
            print(json.dumps({"error": line, "exit_code": code, **(data or {})}), flush=True)


def printable(text: str) -> str:
    """The text with what standard output cannot encode, as in a file's name, written as an escape."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


OUTPUT = Output()
"""The process's output; one process runs one command."""
