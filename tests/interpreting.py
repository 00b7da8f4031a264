"""Triton kernels run by its interpreter, on the CPU, in a process of their own.

Triton decides when it is imported whether it compiles or interprets, so that a process does one or the other: this
module is also the program of that process, which runs many launches of a kernel one after the other.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MARGIN = 256  # elements before and after every array, which no program may read or write


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel started once.

    Attributes:
        inputs: the kernel's first arguments, in order.
        output: the shape of its last argument, which is of the first input's type.
        grid: numbers of programs.
        constants: its compile-time constants, by name.
    """

    inputs: tuple[np.ndarray[Any, Any], ...]
    output: tuple[int, ...]
    grid: tuple[int, int, int]
    constants: Mapping[str, int]


def run(module: str, function: str, launches: Sequence[Launch]) -> list[np.ndarray[Any, Any]]:
    """The outputs of the launches, with NaN where no program has written.

    Args:
        module: name of the module of the kernel, as one imports it.
        function: name of the kernel.
        launches: what to run, in order.

    Raises:
        AssertionError: the process failed, or a program wrote beside its output. (What it reads beside its inputs is
            NaN, and not to be overlooked.)
    """
    with tempfile.TemporaryDirectory() as folder:
        request, reply = Path(folder, "request.npz"), Path(folder, "reply.npz")
        arrays = {f"{i}.{j}": array for i, each in enumerate(launches) for j, array in enumerate(each.inputs)}
        meta = {
            "module": module,
            "function": function,
            "launches": [[len(e.inputs), e.output, e.grid, dict(e.constants)] for e in launches],
        }
        np.savez(request, meta=json.dumps(meta), **arrays)  # type: ignore[arg-type]
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(request), str(reply)]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert child.returncode == 0, child.stderr[-3000:]
        with np.load(reply) as results:
            return [results[str(i)] for i in range(len(launches))]


def _patch_once() -> None:
    """Let Triton's language be patched for the interpreter once, and stay so.

    Else every call of a function inside a kernel patches it anew, which takes more time than all the rest.
    """
    from triton.runtime import interpreter

    patch, patched = interpreter._patch_lang, set()

    class Kept:
        def restore(self) -> None:
            pass

    def patch_lang(function: Any) -> Kept:
        if function.__module__ not in patched:
            patched.add(function.__module__)
            patch(function)
        return Kept()

    interpreter._patch_lang = patch_lang


def _main(request: Path, reply: Path) -> None:
    import torch

    _patch_once()
    with np.load(request) as arrays:
        meta = json.loads(str(arrays["meta"]))
        kernel = getattr(importlib.import_module(meta["module"]), meta["function"])
        results = {}
        for i, (inputs, shape, grid, constants) in enumerate(meta["launches"]):
            given = [_within_margins(arrays[f"{i}.{j}"]) for j in range(inputs)]
            empty = np.full(shape, np.nan, given[0].dtype)
            out = _within_margins(empty)
            kernel[tuple(grid)](*(torch.from_numpy(array) for array in (*given, out)), **constants)
            margins = np.concatenate([out.base[:_MARGIN], out.base[-_MARGIN:]])
            assert np.isnan(margins).all(), f"launch {i} wrote beside its output"
            results[str(i)] = out
    np.savez(reply, **results)


def _within_margins(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy in the middle of a longer array of NaN, or of the largest integer."""
    margin = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    longer = np.full(array.size + 2 * _MARGIN, margin, array.dtype)
    middle = longer[_MARGIN:-_MARGIN].reshape(array.shape)
    middle[...] = array
    return middle


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
