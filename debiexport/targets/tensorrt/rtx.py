"""Building an ONNX model with TensorRT for RTX, which needs no GPU: the proof that TensorRT takes the graph."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from debiexport.errors import EngineError, InputError, MissingDependencyError, OutputError, UsageError
from debiexport.extras import require
from debiexport.targets.tensorrt.capabilities import check_capabilities
from debiexport.targets.tensorrt.rtx_process import MEMORY_ADVICE, ask
from debiexport.targets.tensorrt.rtx_report import RtxBuild
from debiexport.targets.tensorrt.rtx_worker import MEMORY, MISSING, OUTPUT, REFUSED

TIMEOUT_S = 1800.0
"""Of one build; networks of this kind take seconds to minutes."""


def build(
    model: Path,
    plan: Path | None,
    capabilities: Sequence[str],
    *,
    with_plugins: bool = False,
    profile: tuple[int, int, int] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> RtxBuild:
    """Parse and build a model in a process of its own; the same model gives the same bytes.

    Float32 stays float32: TF32, which TensorRT uses unless told otherwise, is off.

    Args:
        model: an ONNX file, with its external data beside it.
        plan: where to write the plan, whole or not at all; what is there is replaced. None to write none.
        capabilities: the GPUs it is for, of `CAPABILITIES`.
        with_plugins: make the twins of the plugins known, so that their nodes are accepted. Such a plan proves that
            the graph is sound, and does not run: the twins compute nothing.
        profile: smallest, preferred and largest batch, of a model whose batch is not fixed.
        timeout_s: seconds after which the process is ended.

    Raises:
        UsageError: a capability is unknown, or the batches are no range.
        InputError: there is no such model.
        OutputError: the plan cannot be written.
        MissingDependencyError: TensorRT for RTX is not installed, or does not load.
        EngineError: TensorRT refuses the model; or its process died, hung or ran out of memory.
    """
    names = check_capabilities(capabilities)
    if profile is not None and not 1 <= profile[0] <= profile[1] <= profile[2]:
        raise UsageError(f"--batch {':'.join(map(str, profile))} is no range: give MIN:OPT:MAX, each at least 1")
    if not model.is_file():
        raise InputError(f"{model} is no file: name an ONNX model")
    require(("tensorrt_rtx",), "building with TensorRT for RTX", "rtx")
    with _partial(plan) as partial:
        answer = ask(
            {
                "model": str(model.absolute()),
                "plan": None if partial is None else str(partial),
                "capabilities": names,
                "profile": profile,
                "with_plugins": with_plugins,
            },
            timeout_s,
        )
        if "build" not in answer:
            _fail(str(answer["kind"]), str(answer["error"]), plan)
        found = RtxBuild.from_dict(answer["build"])
        if plan is not None and partial is not None:
            _commit(partial, plan, found.plan_bytes)
    return found


def _fail(kind: str, told: str, plan: Path | None) -> NoReturn:
    if kind == REFUSED:
        raise EngineError(told)
    if kind == MISSING:
        raise MissingDependencyError(
            f"TensorRT for RTX does not load ({told}): pip install 'debiexport[rtx]', or if it is installed, pip"
            " install --force-reinstall tensorrt-rtx"
        )
    if kind == OUTPUT:
        raise _unwritable(plan, told)
    if kind == MEMORY:
        raise EngineError(f"TensorRT for RTX gave up: {MEMORY_ADVICE}")
    raise EngineError(f"TensorRT for RTX failed ({told}): try again, or export with another lowering")


@contextmanager
def _partial(plan: Path | None) -> Iterator[Path | None]:
    """The name of a file beside the plan, which is removed if it is there at the end."""
    if plan is None:
        yield None
        return
    folder = plan.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or plan.is_dir():  # said before a minute of building
        raise _unwritable(plan, "it is a folder" if plan.is_dir() else f"no files can be made in {folder}")
    partial = folder / f".{plan.name}.{os.getpid()}.partial"
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _commit(partial: Path, plan: Path, size: int) -> None:
    try:
        if partial.stat().st_size != size:
            raise EngineError(f"the plan of TensorRT for RTX is not of {size} bytes, as it should be: try again")
        partial.replace(plan)
    except OSError as error:
        raise _unwritable(plan, error.strerror or str(error)) from error


def _unwritable(plan: Path | None, why: str) -> OutputError:
    return OutputError(f"the plan {plan} cannot be written ({why}): choose another path")
