"""Core ML as the tests have it: the calls of `runtimes.macos` that need a Mac, in the worker's own process.

`bootstrap` gives the command line of a worker in which they are replaced. The model is `logits`, or the answers of a
golden file, and how it behaves is chosen for each choice of compute units.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from debiexport.errors import BundleError
from debiexport.runtimes import macos
from debiexport.runtimes.compute_plan import CPU, NEURAL_ENGINE, ComputePlan, PlacedOperation

FAKED = ("require_macos", "import_coremltools", "compile_package", "load_compiled", "compute_plan")
CLASSES = 6
NATIVE_NS = 250_000
NOISE = "Core ML prints this to standard output"


def logits(images: np.ndarray) -> np.ndarray:
    """(N, 3, H, W) -> (N, CLASSES)."""
    means = images.astype(np.float64).mean((2, 3))
    return (means @ np.arange(1, 3 * CLASSES + 1).reshape(3, CLASSES) / 10).astype(np.float32)


def bootstrap(behaviours: dict[str, str] | None = None) -> tuple[str, ...]:
    """The command of a worker; by unit "right" (the default), or another word that `FakeModel` knows.

    Under "golden" stands the path of a file whose answers the model gives.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import fake_coreml;"
        " fake_coreml.serve(sys.argv[1])"
    )
    return (sys.executable, "-c", code, json.dumps(behaviours or {}))


def serve(behaviours: str) -> None:
    """Replace the calls, then do what the worker does."""
    from debiexport.runtimes import coreml_worker

    known = json.loads(behaviours)
    replace(known)
    if known.get("worker") == "talks":
        os.write(1, b"no JSON\n")
    sys.exit(coreml_worker.main())


class FakeModel:
    """See `macos.CompiledModel`."""

    load_ms = 12.5
    native_ns: int | None = NATIVE_NS

    def __init__(self, behaviour: str, golden: str | None = None) -> None:
        self.behaviour, self.runs = behaviour, 0
        self.answers = None
        if golden is not None:
            with np.load(golden, allow_pickle=False) as stored:
                self.answers = stored["images"], stored["logits"]
        if behaviour == "untold":
            self.native_ns = None

    def predict(self, feed: dict[str, Any]) -> dict[str, Any]:
        self.runs += 1
        os.write(1, NOISE.encode() + b"\n")
        if self.behaviour == "dies" or (self.behaviour == "dies later" and self.runs > 30):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behaviour == "exits":
            print("the compiler gave up", file=sys.stderr, flush=True)
            os._exit(3)
        if self.behaviour == "hangs":
            time.sleep(60)
        if self.behaviour == "raises":
            raise RuntimeError("Unable to compute\nthe prediction")
        images = feed["images"]
        if not isinstance(images, np.ndarray):  # an image of PIL
            images = np.asarray(images)[None].transpose(0, 3, 1, 2) / 255
        elif images.dtype == np.float16:
            raise TypeError("coremltools would widen these at every run")
        result = logits(images) if self.answers is None else self.stored(images)
        if self.behaviour == "wrong":
            result = result + 1
        if self.behaviour == "not finite":
            result[0, 0] = np.nan
        if self.behaviour == "misshapen":
            result = result[0]
        if self.behaviour == "features":
            return {"feature1": result}
        if self.behaviour == "object":
            return {"logits": {1, 2}}
        if self.behaviour in ("classifier", "numbers"):
            raised = np.exp(result[0] - result[0].max())
            keys = range(CLASSES) if self.behaviour == "numbers" else [f"class {i}" for i in range(CLASSES)]
            table = dict(zip(keys, map(float, raised / raised.sum()), strict=True))
            return {"classLabel": str(max(table, key=lambda key: table[key])), "probabilities": table}
        return {"logits": result}

    def stored(self, images: np.ndarray) -> np.ndarray:
        """The answers for stored images (N, 3, H, W)."""
        assert self.answers is not None
        known, answers = self.answers
        return np.stack([answers[int(np.abs(known - image).sum((1, 2, 3)).argmin())] for image in images])


def replace(behaviours: dict[str, str]) -> None:
    """Put the fakes in the place of the calls of `macos`; their parameters are the same."""

    def require_macos(what: str) -> None:
        pass

    def import_coremltools() -> Any:
        return None

    def compile_package(package: Path, cache: Path) -> Path:
        if behaviours.get("compiler") == "refuses":
            raise BundleError(f"{package.name} is not compiled by Core ML: bad weights; export again")
        if behaviours.get("compiler") == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        compiled = macos.compiled_path(package, cache)
        compiled.mkdir(parents=True)
        return compiled

    def load_compiled(path: Path, compute_unit: str, function: str | None = None) -> FakeModel:
        behaviour = behaviours.get(compute_unit, "right")
        if behaviour == "refuses":
            raise BundleError(f"{path.name} is not loaded by Core ML on {compute_unit}: no such device")
        if not path.is_dir() or function not in (None, "batch2"):
            raise BundleError(f"{path.name} has no function {function}")
        return FakeModel(behaviour, behaviours.get("golden"))

    def compute_plan(path: Path, compute_unit: str, function: str | None = None) -> ComputePlan:
        if behaviours.get("plan") == "refuses":
            raise RuntimeError("MLComputePlan is only available on macOS >= 14.4")
        both = (CPU, NEURAL_ENGINE)
        return ComputePlan(
            compute_unit,
            function or "main",
            (
                PlacedOperation("conv", "x", NEURAL_ENGINE if compute_unit != "CPU_ONLY" else CPU, both, 0.75),
                PlacedOperation("topk", "y", CPU, (CPU,), 0.25),
            ),
        )

    for fake in (require_macos, import_coremltools, compile_package, load_compiled, compute_plan):
        setattr(macos, fake.__name__, fake)
