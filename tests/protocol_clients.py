"""One client for the tests of a server of the Open Inference Protocol, over each of the ways that tritonclient has.

What is answered comes back in one form, and every refusal as `Refused` with a code of HTTP, so that servers and
protocols can be compared with `==`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToDict, ParseDict
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Array = npt.NDArray[Any]

BINARY, JSON, GRPC = "HTTP binary", "HTTP JSON", "gRPC"
PROTOCOLS = (BINARY, JSON, GRPC)
TIMEOUT_S = 60.0

_CODES = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class Refused(Exception):
    """The server said no: the code that HTTP has for it, and its words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Answer:
    """What an inference gives."""

    outputs: dict[str, Array]
    model: str
    version: str
    id: str


class Client:
    """tritonclient over one protocol; for one thread, to be left by `with`.

    Args:
        http, grpc: where the server listens.
        protocol: one of `PROTOCOLS`.
    """

    def __init__(self, http: str, grpc: str, protocol: str) -> None:
        self._is_grpc, self._binary = protocol == GRPC, protocol != JSON
        self._module: Any = tritonclient.grpc if self._is_grpc else tritonclient.http
        self._client = (
            self._module.InferenceServerClient(grpc)
            if self._is_grpc
            else self._module.InferenceServerClient(http, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S)
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def live(self) -> bool:
        return bool(self._call("is_server_live"))

    def ready(self) -> bool:
        return bool(self._call("is_server_ready"))

    def model_ready(self, model: str, version: str = "") -> bool:
        return bool(self._call("is_model_ready", model, version))

    def server_metadata(self) -> dict[str, Any]:
        return self._plain(self._call("get_server_metadata"))

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Name, versions, platform, and the tensors as (name, datatype, shape)."""
        data = self._plain(self._call("get_model_metadata", model, version))
        for tensors in ("inputs", "outputs"):
            data[tensors] = [(t["name"], t["datatype"], tuple(map(int, t["shape"]))) for t in data[tensors]]
        return data

    def config(self, model: str, version: str = "") -> Any:
        """A `ModelConfig`."""
        config = self._call("get_model_config", model, version)
        return config.config if self._is_grpc else ParseDict(config, ModelConfig(), ignore_unknown_fields=True)

    def statistics(self, model: str, version: str = "") -> dict[str, int]:
        """What has been counted of one version."""
        (found,) = self._plain(self._call("get_inference_statistics", model, version))["model_stats"]
        success = found.get("inference_stats", {}).get("success", {})
        return {
            "inferences": int(found.get("inference_count", 0)),
            "executions": int(found.get("execution_count", 0)),
            "requests": int(success.get("count", 0)),
        }

    def index(self) -> list[tuple[str, str, str]]:
        """Name, version and state of every model, sorted."""
        found = self._plain(self._call("get_model_repository_index"))
        models = found.get("models", []) if isinstance(found, dict) else found
        return sorted((m["name"], m.get("version", ""), m.get("state", "")) for m in models)

    def load(self, model: str) -> None:
        self._call("load_model", model)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        version: str = "",
        id: str = "",
    ) -> Answer:
        """Run a model; without outputs it gives all of them."""
        # Without a list of outputs tritonclient asks for all of them in the binary form.
        names = list(outputs) or ([] if self._binary else self._output_names(model, version))
        wanted = [self._module.InferRequestedOutput(name, **self._form("binary_data")) for name in names] or None
        result = self._call("infer", model, self._tensors(inputs), version, wanted, id)
        response = self._plain(result.get_response())
        found = [output["name"] for output in response["outputs"]]
        arrays = {name: np.array(result.as_numpy(name)) for name in found}
        return Answer(arrays, response["model_name"], response["model_version"], response.get("id", ""))

    def best_labels(self, model: str, inputs: Mapping[str, Array], output: str) -> list[str]:
        """The label of the best class of each image, by the classification extension."""
        wanted = [self._module.InferRequestedOutput(output, class_count=1, **self._form("binary_data"))]
        result = self._call("infer", model, self._tensors(inputs), "", wanted)
        return [str(line.decode().split(":")[2]) for line in result.as_numpy(output).ravel()]

    def _tensors(self, inputs: Mapping[str, Array]) -> list[Any]:
        tensors = []
        for name, array in inputs.items():
            tensor = self._module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array, **self._form("binary_data"))
            tensors.append(tensor)
        return tensors

    def _output_names(self, model: str, version: str) -> list[str]:
        return [name for name, _, _ in self.metadata(model, version)["outputs"]]

    def _form(self, option: str) -> dict[str, bool]:
        return {} if self._is_grpc else {option: self._binary}

    def _call(self, method: str, *arguments: Any) -> Any:
        limit = {"client_timeout": TIMEOUT_S} if self._is_grpc else {}
        with _refusals():
            return getattr(self._client, method)(*arguments, **limit)

    def _plain(self, answer: Any) -> Any:
        return MessageToDict(answer, preserving_proto_field_name=True) if self._is_grpc else answer


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        status = str(error.status()).removeprefix("StatusCode.")
        code = int(status) if status.isdigit() else _CODES.get(status, 0)
        raise Refused(code, error.message()) from error


def code_of(call: Callable[[], object]) -> int:
    """The code that a call is refused with; 200 if it is not."""
    try:
        call()
    except Refused as refused:
        return refused.code
    return 200
