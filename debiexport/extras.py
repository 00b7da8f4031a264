"""Packages that only some commands need."""

from __future__ import annotations

from importlib.util import find_spec

from debiexport.errors import MissingDependencyError

EXPORT = ("torch", "onnxscript", "safetensors")
COREML = ("torch", "safetensors", "coremltools")
TENSORRT = ("torch", "onnxscript", "safetensors", "onnx_graphsurgeon")


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed; nothing is imported."""
    return [name for name in packages if find_spec(name) is None]


def require(packages: tuple[str, ...], what: str, extra: str) -> None:
    """Refuse to go on without packages.

    Raises:
        MissingDependencyError: naming them and the line that installs them.
    """
    absent = missing(packages)
    if absent:
        raise MissingDependencyError(
            f"{what} needs {', '.join(absent)}, not installed here: pip install 'debiexport[{extra}]', or in a checkout"
            f" pip install '.[{extra}]'"
        )
