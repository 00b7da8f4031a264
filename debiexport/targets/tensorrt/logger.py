"""A logger for TensorRT that keeps the errors, for the message that follows them."""

from __future__ import annotations

from typing import Any

MAX_ERRORS = 50


class Errors:
    """What TensorRT has logged as errors, oldest first."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def told(self) -> str:
        """The last error in one line; after a failure it is the one that says why."""
        return self.lines[-1] if self.lines else "it does not say why"


def make_logger(module: Any) -> tuple[Any, Errors]:
    """A logger of a module of TensorRT that prints nothing, and where its errors are kept.

    Args:
        module: `tensorrt` or one like it.
    """
    errors = Errors()
    severity = module.ILogger.Severity
    kept = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # without it, pybind11 has no object to call

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept and len(errors.lines) < MAX_ERRORS:
                errors.lines.append(" ".join(msg.split())[:300])

    return Logger(), errors
