"""The process in which a Core ML model runs, on one choice of compute units.

    python -m debiexport.runtimes.coreml_worker

It reads a request as a line of JSON from standard input and answers with one on standard output; arrays pass
in .npz files. A failed compilation for the Neural Engine may end the process at the first prediction, which is
why it is one of its own. It ends at the end of its input, and so with whoever started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from debiexport.errors import BundleError
from debiexport.runtimes import macos
from debiexport.runtimes.base import Array, Arrays

ARRAY, TABLE = "array", "table"
"""Kinds of an output: an array, or a classifier's probabilities by label."""


class Worker:
    """A model and what it is timed on."""

    def __init__(self) -> None:
        self._model: macos.CompiledModel | None = None
        self._pool: list[dict[str, Any]] = []
        self._next = 0

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what one request wants.

        Args:
            request: `command`, and what it needs:
                compile: `package`, `cache` -> `path`, `compile_ms`
                load: `path`, `unit`, `function` (or None) -> `load_ms`
                predict: `inputs`, a file; `outputs`, a file that is written -> `wall_ms`, `native_ms` (or None), and
                    `outputs`, one entry an array in the file: `name`, `kind`, and `keys` of a table
                keep: `files` of inputs to time the model on -> nothing
                time: `runs` -> `wall_ns` and `native_ns` (or None), one number a run
                plan: `path`, `unit`, `function` -> `function`, `operations`
        """
        command = str(request["command"])
        if command == "compile":
            return self._compile(Path(request["package"]), Path(request["cache"]))
        if command == "load":
            self._model = macos.load_compiled(Path(request["path"]), request["unit"], request["function"])
            return {"load_ms": self._model.load_ms}
        if command == "predict":
            return self._predict(Path(request["inputs"]), Path(request["outputs"]))
        if command == "keep":
            self._pool, self._next = [_feed(_read(Path(file))) for file in request["files"]], 0
            return {}
        if command == "time":
            return self._time(int(request["runs"]))
        if command == "plan":
            plan = macos.compute_plan(Path(request["path"]), request["unit"], request["function"])
            return {"function": plan.function, "operations": plan.rows()}
        raise ValueError(f"no command {command!r}")

    @property
    def _loaded(self) -> macos.CompiledModel:
        if self._model is None:
            raise ValueError("no model is loaded")
        return self._model

    def _compile(self, package: Path, cache: Path) -> dict[str, Any]:
        macos.require_macos("compiling a Core ML package")
        macos.import_coremltools()  # so that its import is not counted
        begun = time.perf_counter_ns()
        path = macos.compile_package(package, cache)
        return {"path": str(path), "compile_ms": (time.perf_counter_ns() - begun) / 1e6}

    def _predict(self, inputs: Path, outputs: Path) -> dict[str, Any]:
        model, feed = self._loaded, _feed(_read(inputs))
        begun = time.perf_counter_ns()
        results = model.predict(feed)
        wall, native = time.perf_counter_ns() - begun, model.native_ns
        entries, arrays = _describe(results)
        with outputs.open("wb") as file:
            np.savez(file, *arrays)
        return {"wall_ms": wall / 1e6, "native_ms": None if native is None else native / 1e6, "outputs": entries}

    def _time(self, runs: int) -> dict[str, Any]:
        model, pool = self._loaded, self._pool
        if not pool:
            raise ValueError("there are no inputs to time the model on")
        wall, native = [], []
        for _ in range(runs):
            feed = pool[self._next % len(pool)]
            self._next += 1
            begun = time.perf_counter_ns()
            model.predict(feed)
            wall.append(time.perf_counter_ns() - begun)
            native.append(model.native_ns)
        return {"wall_ns": wall, "native_ns": None if None in native else native}


def _read(path: Path) -> Arrays:
    """The arrays of a file; their names stand in the first."""
    with np.load(path, allow_pickle=False) as data:
        return {str(name): data[f"arr_{i + 1}"] for i, name in enumerate(data["arr_0"])}


def _feed(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The inputs as coremltools takes them; done here, so that no run is charged for it."""
    return {name: _value(name, array) for name, array in arrays.items()}


def _value(name: str, array: Array) -> Any:
    if array.dtype == np.float16:  # coremltools would widen it at each run
        return array.astype(np.float32)
    if array.dtype != np.uint8:
        return array
    if array.ndim != 4 or len(array) != 1 or array.shape[3] != 3:
        raise BundleError(f"{name} has the shape {array.shape}: an image input takes one RGB image, (1, H, W, 3)")
    from PIL import Image

    return Image.fromarray(array[0])


def _describe(results: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Array]]:
    """What each output is, and an array of each that holds no Python object."""
    entries: list[dict[str, Any]] = []
    arrays: list[Array] = []
    for name, value in results.items():
        if isinstance(value, dict):
            entries.append({"name": name, "kind": TABLE, "keys": list(value)})
            arrays.append(np.array(list(value.values()), dtype=np.float64))
        else:
            array = np.atleast_1d(np.asarray(value))
            if array.dtype.hasobject:
                raise BundleError(f"the output {name} is a {type(value).__name__}, and no array: export again")
            entries.append({"name": name, "kind": ARRAY})
            arrays.append(array)
    return entries, arrays


def serve(requests: Iterable[str], channel: TextIO) -> None:
    """Answer each request, also with an error, until one says "quit" or there are no more."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        if request["command"] == "quit":
            return
        try:
            answer = {"ok": True, **worker.answer(request)}
        except Exception as error:  # Core ML and coremltools raise whatever they like
            told = " ".join(str(error).split())[:500]
            foreseen = isinstance(error, BundleError)
            answer = {"ok": False, "error": told if foreseen and told else f"{type(error).__name__}: {told}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def main(arguments: Sequence[str] = ()) -> int:
    """Serve whoever started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it, and then the input ends
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)  # Core ML's compiler prints to standard output
        serve(sys.stdin, channel)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
