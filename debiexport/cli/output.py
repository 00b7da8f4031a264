"""Where words go: the result to stdout, everything else to stderr.

With --json stdout holds exactly one JSON object, also when the command fails.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from debiexport.errors import OutputError


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
            _say(f"[{time.monotonic() - self._begun:6.1f} s] {line}")

    def result(self, text: str, data: Mapping[str, Any]) -> None:
        """The result, for people or for programs.

        Raises:
            OutputError: standard output cannot be written.
            BrokenPipeError: a person has seen enough of it, as with `| head`.
        """
        self._print(json.dumps(data, allow_nan=False) if self.as_json else printable(text))

    def note(self, line: str) -> None:
        """Something a user should know beside the result."""
        _say(f"note: {line}")

    def error(self, message: str) -> str:
        """Something that went wrong, in one line, which is returned."""
        line = " ".join(message.split())
        with suppress(OSError):  # the exit code says it as well
            _say(f"error: {line}")
        return line

    def failure(self, message: str, code: int, data: Mapping[str, Any] | None = None) -> None:
        """The one line of an error."""
        line = self.error(message)
        if self.as_json:
            with suppress(OutputError):  # the line is on stderr
                self._print(json.dumps({"error": line, "exit_code": code, **(data or {})}))

    def finish(self, code: int) -> int:
        """Write what is still buffered; the code to exit with, which is that of a failure if this fails."""
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            _discard(sys.stdout)
            if code == 0:
                self.error(str(_unwritable(error)))
                return OutputError.exit_code
        return code

    def hang_up(self) -> None:
        """Say nothing more, not even what is buffered."""
        _discard(sys.stdout)
        _discard(sys.stderr)

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and not self.as_json:
                raise
            _discard(sys.stdout)
            raise _unwritable(error) from error


def _say(line: str) -> None:
    # Its end in the same piece: an interruption between them would let the next line begin in this one.
    print(f"{line}\n", end="", file=sys.stderr, flush=True)


def _unwritable(error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"standard output cannot be written ({reason}): free some space or send it elsewhere")


def _discard(stream: Any) -> None:
    """Let what a stream still holds go nowhere, or Python complains of it once more when it ends."""
    with suppress(OSError, ValueError):  # it has no descriptor, or is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def printable(text: str) -> str:
    """The text with what standard output cannot encode, as in a file's name, written as an escape."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


OUTPUT = Output()
"""The process's output; one process runs one command."""
