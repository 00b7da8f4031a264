"""A Core ML model in a process of its own; whatever ends that process is an answer, not the end of this one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from debiexport.errors import BundleError
from debiexport.runtimes.base import Array, Arrays
from debiexport.runtimes.compute_plan import ComputePlan
from debiexport.runtimes.coreml_worker import TABLE

WORKER = (sys.executable, "-m", "debiexport.runtimes.coreml_worker")
TIMEOUT_S = 600.0
"""Of one request; compiling a large model for the Neural Engine takes minutes."""

END_TIMEOUT_S = 5.0
PROBABILITIES = "probabilities"
"""Name under which a runtime gives a classifier's probabilities, whatever the package calls them."""


class UnitFailed(BundleError):
    """Core ML refuses the model on one choice of compute units, or its process died or hangs."""


@dataclass(frozen=True)
class Table:
    """A classifier's probabilities: keys (labels, or numbers of classes), and values (K,)."""

    keys: tuple[str | int, ...]
    values: Array


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one prediction gave.

    Attributes:
        arrays: outputs by name; a classifier's label is an array of one string.
        tables: a classifier's probabilities by name.
        wall_ms: milliseconds of the call, in the other process.
        native_ms: of that inside of Core ML; None if not known.
    """

    arrays: Arrays
    tables: dict[str, Table]
    wall_ms: float
    native_ms: float | None


@dataclass(frozen=True, eq=False)
class Times:
    """Nanoseconds (N,) of runs: of the calls, and inside of Core ML (None if not known)."""

    wall_ns: npt.NDArray[np.int64]
    native_ns: npt.NDArray[np.int64] | None


class CoreMLProcess:
    """A process that runs one model on one choice of compute units; a context manager.

    After a failure every further request fails with the same words.

    Args:
        unit: one of `macos.ALL_UNITS`; None for a process that only compiles.
        timeout_s: seconds that a request may take; the process is ended after them.
    """

    def __init__(self, unit: str | None, timeout_s: float = TIMEOUT_S) -> None:
        self.unit, self._timeout_s = unit or "", timeout_s
        self._place = f"Core ML on {unit}" if unit else "Core ML"
        self._failure: str | None = None
        self._count = 0
        self._files = tempfile.TemporaryDirectory(prefix="debiexport-")
        self._folder = Path(self._files.name)
        self._log = (self._folder / "log").open("wb")
        try:
            self._process = subprocess.Popen(
                WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8"
            )
        except BaseException:
            self._log.close()
            self._files.cleanup()
            raise
        self._answers: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def compile(self, package: Path, cache: Path) -> tuple[Path, float]:
        """See `macos.compile_package`; here, because compiling prints, and may end the process.

        Returns:
            The compiled model, and the milliseconds that it took.

        Raises:
            UnitFailed: Core ML refuses the package, or the process died or hangs.
        """
        answer = self._ask("compiling", command="compile", package=str(package), cache=str(cache))
        return Path(str(answer["path"])), float(answer["compile_ms"])

    def load(self, path: Path, function: str | None = None) -> float:
        """Load a compiled model; returns the milliseconds it took.

        Raises:
            UnitFailed: Core ML refuses it, or the process died or hangs; so for the others.
        """
        answer = self._ask("loading", command="load", path=str(path), unit=self.unit, function=function)
        return float(answer["load_ms"])

    def predict(self, inputs: Mapping[str, Array]) -> Prediction:
        """Run the model once.

        Args:
            inputs: float arrays, or bytes (1, H, W, 3) where the model takes an image.
        """
        given, made = self._write(inputs), self._folder / "outputs.npz"
        answer = self._ask("predicting", command="predict", inputs=str(given), outputs=str(made))
        arrays: Arrays = {}
        tables: dict[str, Table] = {}
        with np.load(made, allow_pickle=False) as data:
            for i, entry in enumerate(answer["outputs"]):
                if entry["kind"] == TABLE:
                    tables[entry["name"]] = Table(tuple(entry["keys"]), data[f"arr_{i}"])
                else:
                    arrays[entry["name"]] = data[f"arr_{i}"]
        given.unlink()
        made.unlink()
        native = answer["native_ms"]
        return Prediction(arrays, tables, float(answer["wall_ms"]), None if native is None else float(native))

    def keep(self, pool: Sequence[Mapping[str, Array]]) -> None:
        """Give the inputs that `time` runs the model on, in turn."""
        files = [self._write(inputs) for inputs in pool]
        self._ask("reading its inputs", command="keep", files=list(map(str, files)))
        for file in files:
            file.unlink()

    def time(self, runs: int) -> Times:
        """Run the model so often without a pause."""
        answer = self._ask("timing", command="time", runs=runs)
        native = answer["native_ns"]
        return Times(
            np.array(answer["wall_ns"], dtype=np.int64), None if native is None else np.array(native, dtype=np.int64)
        )

    def plan(self, path: Path, function: str | None = None) -> ComputePlan:
        """See `macos.compute_plan`."""
        answer = self._ask("planning", command="plan", path=str(path), unit=self.unit, function=function)
        return ComputePlan.of_rows(self.unit, str(answer["function"]), answer["operations"])

    @property
    def is_lost(self) -> bool:
        """Whether the process died or hung."""
        return self._failure is not None

    def close(self) -> None:
        """End the process and remove its files; it may be called again."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with suppress(OSError):
            process.stdin.close()  # the end of its input is the end of the worker
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reader.join(END_TIMEOUT_S)
        process.stdout.close()
        self._log.close()
        self._files.cleanup()

    def __enter__(self) -> CoreMLProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, inputs: Mapping[str, Array]) -> Path:
        self._count += 1
        path = self._folder / f"inputs{self._count}.npz"
        with path.open("wb") as file:
            np.savez(file, np.array(list(inputs)), *inputs.values())
        return path

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):  # closed meanwhile
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put(None)

    def _ask(self, doing: str, **request: Any) -> dict[str, Any]:
        if self._failure is not None:
            raise UnitFailed(self._failure)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self._timeout_s)
        except OSError:
            line = None
        except Empty:
            self._process.kill()
            self._fail(f"it was ended while {doing}, as it had not answered for {self._timeout_s:g} s")
        if line is None:
            self._fail(f"its process died while {doing}: {self._end()}")
        try:
            answer = json.loads(line)
            done = answer["ok"]
        except (ValueError, KeyError, TypeError):
            self._process.kill()
            self._fail(f"its process answered {line[:80]!r} while {doing}")
        if not done:
            raise UnitFailed(f"{self._place} failed while {doing}: {answer['error']}")
        return dict(answer)

    def _fail(self, what: str) -> NoReturn:
        advice = "choose another compute unit" if self.unit else "try again, or export again"
        self._failure = f"{self._place} failed: {what}; {advice}"
        raise UnitFailed(self._failure)

    def _end(self) -> str:
        """How the process ended, and the last that it said."""
        try:
            code = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "it closed its output"
        ended = f"exit status {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
        lines = (self._folder / "log").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{ended}, its last words {last[:200]!r}" if last else ended


class ProcessRuntime:
    """A loaded model in its process, as a `Runtime`.

    Args:
        process: in which the model has been loaded.
        batch: the only one that the model takes.
        labels: of the classes in order, by which a classifier's table becomes the array `PROBABILITIES` (1, K).
    """

    def __init__(self, process: CoreMLProcess, batch: int, labels: Sequence[str] | None = None) -> None:
        self._process, self._batch, self._labels = process, batch, labels
        self.first: Prediction | None = None
        """The first prediction, which may be much slower than others."""

    @property
    def batch(self) -> int | None:
        """See `Runtime.batch`."""
        return self._batch

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """See `Runtime.run`.

        Raises:
            BundleError: tensors inside the model are asked for, or a classifier's classes are not those of the labels.
            UnitFailed: Core ML refuses, or the process died or hangs.
        """
        if taps:
            raise BundleError(
                f"Core ML shows no tensor inside a model, so not {taps[0]}: use `debiexport check`, which evaluates"
                " the package and does"
            )
        prediction = self._process.predict(inputs)
        if self.first is None:
            self.first = prediction
        arrays = dict(prediction.arrays)
        for name, table in prediction.tables.items():  # a model has one classifier at most
            arrays[PROBABILITIES] = _row(name, table, self._labels)
        return arrays


def _row(name: str, table: Table, labels: Sequence[str] | None) -> Array:
    """Probabilities (1, K) in the order of the classes."""
    found = {str(key): value for key, value in zip(table.keys, table.values, strict=True)}
    numbers = [str(i) for i in range(len(found))]
    order = numbers if set(found) == set(numbers) else list(labels or ())
    if set(order) != set(found) or len(order) != len(found):
        raise BundleError(f"the {len(found)} classes of {name} are not the {len(order)} of the manifest: export again")
    return np.array([[found[label] for label in order]])
