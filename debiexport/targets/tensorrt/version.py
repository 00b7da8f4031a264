"""TensorRT as it is installed here: which one, and whether it can work.

Nothing is imported before it is asked for. TensorRT's `Runtime` may end the process where there is no GPU, so whoever
wants to build or run asks here first.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from debiexport.errors import MissingDependencyError
from debiexport.runtimes.cuda import require_gpu

TENSORRT, RTX = "tensorrt", "rtx"
MIN_VERSION = (10, 13)
_MODULES = {TENSORRT: "tensorrt", RTX: "tensorrt_rtx"}
_INSTALL = {name: f"pip install 'debiexport[{name}]' (in a checkout '.[{name}]')" for name in (TENSORRT, RTX)}
_INSTEAD = "without a GPU --engine rtx builds for RTX GPUs, and --engine none leaves the typed model"


def require_tensorrt(what: str = "building an engine") -> Any:
    """The module `tensorrt`, of a version that is known to work, on a machine with a GPU.

    Args:
        what: needs it, as the beginning of a sentence.

    Raises:
        MissingDependencyError: it is not installed or too old, or there is no GPU; see also `cuda.require_gpu`.
    """
    wanted = ".".join(map(str, MIN_VERSION))
    try:
        module = import_module(_MODULES[TENSORRT])
        found = version_of(module)
    except (ImportError, OSError) as error:
        told = " ".join(str(error).split())[:200]
        raise MissingDependencyError(
            f"{what} needs an NVIDIA GPU and TensorRT {wanted} or newer, which cannot be imported here ({told}): where"
            f" the GPU is, {_INSTALL[TENSORRT]}; {_INSTEAD}"
        ) from error
    if found < MIN_VERSION:
        raise MissingDependencyError(
            f"{what} needs TensorRT {wanted} or newer, this is {module.__version__}: pip install --upgrade tensorrt;"
            f" {_INSTEAD}"
        )
    _require_gpu(what)
    return module


def require_flavour(flavour: str, what: str) -> Any:
    """The module that runs engines of a flavour, on a machine with a GPU.

    Args:
        flavour: "tensorrt" or "rtx" (TensorRT for RTX).
        what: needs it, as the beginning of a sentence.

    Raises:
        MissingDependencyError: see `require_tensorrt`.
    """
    if flavour == TENSORRT:
        return require_tensorrt(what)
    try:
        module = import_module(_MODULES[flavour])
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"{what} needs TensorRT for RTX, which is not installed here: {_INSTALL[flavour]}"
        ) from error
    require_gpu(what)
    return module


def version_of(module: Any) -> tuple[int, ...]:
    """The numbers of a module's version, as (11, 4, 0, 106).

    Raises:
        ImportError: it has none, as a placeholder of the real package.
    """
    numbers = tuple(map(int, re.findall(r"\d+", str(getattr(module, "__version__", "")))))
    if len(numbers) < 2:
        raise ImportError(f"{getattr(module, '__name__', module)!r} has no version")
    return numbers


def _require_gpu(what: str) -> None:
    try:
        require_gpu(what)
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error}; {_INSTEAD}") from error
