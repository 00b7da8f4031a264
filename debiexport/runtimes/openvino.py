"""OpenVINO, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debiexport.errors import BundleError
from debiexport.extras import require
from debiexport.runtimes.base import Array, Arrays

PACKAGES = ("openvino",)


class OpenVinoRuntime:
    """An ONNX file in OpenVINO.

    Args:
        path: the model.
        threads: of the inference; None lets OpenVINO choose.

    Raises:
        MissingDependencyError: the package openvino is not installed.
        BundleError: OpenVINO refuses the file.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        require(PACKAGES, "running a model in OpenVINO", "openvino")
        import openvino

        self.path, self._core = path, openvino.Core()
        # float32 means float32: on CPUs that can, OpenVINO takes bfloat16 unless told otherwise.
        self._config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._tapped: dict[tuple[str, ...], Any] = {}
        self._model = self._open()
        self._shape = self._model.input(0).get_partial_shape()

    @property
    def batch(self) -> int | None:
        """See `Runtime.batch`."""
        first = self._shape[0]
        return int(first.get_length()) if first.is_static else None

    @property
    def options(self) -> dict[str, object]:
        """What it was compiled with; the rest are OpenVINO's defaults."""
        return {"device": "CPU", **self._config}

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """See `Runtime.run`."""
        model = self._model if not taps else self._with_taps(tuple(taps))
        results = model(dict(inputs))
        return {name: results[i] for i, output in enumerate(model.outputs) for name in output.get_names()}

    def _with_taps(self, taps: tuple[str, ...]) -> Any:
        if taps not in self._tapped:
            self._tapped[taps] = self._open(taps)
        return self._tapped[taps]

    def _open(self, taps: Sequence[str] = ()) -> Any:
        try:
            model = self._core.read_model(str(self.path))
            model.add_outputs(list(taps))
            return self._core.compile_model(model, "CPU", self._config)
        except Exception as error:  # openvino raises RuntimeError and others
            text = " ".join(str(error).split())[:300]
            raise BundleError(f"{self.path.name} cannot be run by OpenVINO: {text}") from error
