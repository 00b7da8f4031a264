"""What stands in for Triton's ONNX Runtime and TensorRT backends where only its Python backend is at hand.

`install_triton.py` puts this file, as `model.py`, into the folders of both backends. Triton then loads repositories
made for them as they are: checking the configuration, versions, warm-up, batching, the queue and both protocols are
Triton's own, and ONNX Runtime computes. A TensorRT plan needs its GPU; what computes in its place is the ONNX model
that has to lie beside it, under the plan's name with the suffix .onnx.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

# optimization.graph.level of Triton's ONNX Runtime backend; any other value is its default.
LEVELS = {-1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}


class TritonPythonModel:
    """One instance of a model, as Triton's Python backend wants it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model of one version; an exception is an error of loading it."""
        config = json.loads(args["model_config"])
        version = Path(args["model_repository"]) / args["model_version"]
        path = (version / config["default_model_filename"]).with_suffix(".onnx")
        self._session = ort.InferenceSession(str(path), _options(config), providers=["CPUExecutionProvider"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._batches = config.get("max_batch_size", 0) > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests that Triton has put together: in one run where the model has a batch, else one by one."""
        groups = [requests] if self._batches else [[request] for request in requests]
        return [response for group in groups for response in self._run(group)]

    def _run(self, requests: list[Any]) -> list[Any]:
        arrays = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        together = {name: np.concatenate([of[name] for of in arrays]) for name in self._inputs}
        names = [output.name for output in self._session.get_outputs()]
        try:
            results = dict(zip(names, self._session.run(names, together), strict=True))
        except Exception as error:  # onnxruntime raises a dozen types without a common root
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))) for _ in requests]
        ends = np.cumsum([len(next(iter(of.values()))) for of in arrays])
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, np.ascontiguousarray(results[name][end - len(next(iter(of.values()))) : end]))
                    for name in request.requested_output_names()
                ]
            )
            for request, of, end in zip(requests, arrays, ends, strict=True)
        ]


def _options(config: dict[str, Any]) -> ort.SessionOptions:
    """What the parameters of Triton's ONNX Runtime backend say, as far as it can change a result."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    options.execution_mode = ort.ExecutionMode(int(parameters.get("execution_mode", 0)))
    level = LEVELS.get(config.get("optimization", {}).get("graph", {}).get("level", 0), "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return options
