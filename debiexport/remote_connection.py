"""A connection to a server of the Open Inference Protocol through tritonclient, and what can go wrong with it in words.

HTTP and gRPC differ in their classes, their codes and how they fail; here they become one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from types import TracebackType
from typing import Any

from debiexport.errors import DebiexportError, UsageError
from debiexport.extras import require
from debiexport.runtimes.base import Array

HTTP, GRPC = "http", "grpc"
DEFAULT_PORTS = {HTTP: 8000, GRPC: 8001}
CONNECT_S, ANSWER_S = 10.0, 60.0

_SERVER = re.compile(
    r"(?:(?P<protocol>http|grpc)://)?(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.I | re.ASCII,
)

_CODES = {"UNAVAILABLE": "503", "DEADLINE_EXCEEDED": "504", "NOT_FOUND": "404", "RESOURCE_EXHAUSTED": "429"}
_NOT_FOUND, _BUSY, _LATE = "404", ("429", "503"), "504"


def parse_server(text: str) -> tuple[str, str]:
    """Read `host:port`, `http://host:port` or `grpc://host:port`.

    Returns:
        "http" or "grpc", and host:port, with the protocol's usual port where none is given.

    Raises:
        UsageError: anything else.
    """
    if text.lower().startswith(("https://", "grpcs://")):
        raise UsageError(f"--server is {text!r}: TLS is not spoken here; give host:port of something that does without")
    found = _SERVER.fullmatch(text)
    if found is None or int(found["port"] or 1) not in range(1, 65536):
        raise UsageError(f"--server is {text!r}: give host:port or grpc://host:port, as localhost:8000")
    protocol = (found["protocol"] or HTTP).lower()
    return protocol, f"{found['host']}:{found['port'] or DEFAULT_PORTS[protocol]}"


@dataclass(frozen=True)
class Answer:
    """One output of a model, and the version of the model that gave it."""

    output: Array
    version: str


class Connection:
    """A server that answers; to be closed, or left by `with`.

    Args:
        server: see `parse_server`.

    Raises:
        UsageError: nobody answers there, or in another protocol.
        MissingDependencyError: tritonclient is not installed.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self._protocol, address = parse_server(server)
        require(("tritonclient", "grpc", "gevent", "geventhttpclient"), "predict --server", "serve")
        if self._protocol == GRPC:
            import tritonclient.grpc as client

            self._client: Any = client.InferenceServerClient(address)
        else:
            import gevent
            import tritonclient.http as client

            hub = gevent.get_hub()  # Ctrl-C reaches who waits for an answer; gevent would print it besides
            hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)
            self._client = client.InferenceServerClient(address, connection_timeout=CONNECT_S, network_timeout=ANSWER_S)
        self._module: Any = client
        try:
            self._require_life()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def models(self) -> list[str]:
        """Names of the models that are ready, sorted."""
        with self._explained("the list of models"):
            index = self._client.get_model_repository_index(**self._limit(ANSWER_S))
            if self._protocol == GRPC:
                entries = [(model.name, model.state) for model in index.models]
            else:
                entries = [(model["name"], model.get("state")) for model in index]
        return sorted({name for name, state in entries if state == "READY"})

    def config(self, model: str) -> Any:
        """A model's configuration, as a `ModelConfig` of tritonclient.

        Raises:
            UsageError: the server has no such model.
            DebiexportError: it gives none.
        """
        from google.protobuf.json_format import ParseDict
        from tritonclient.grpc.model_config_pb2 import ModelConfig

        with self._explained(f"the configuration of {model!r}", model):
            config = self._client.get_model_config(model, **self._limit(ANSWER_S))
            if self._protocol == GRPC:
                return config.config
            return ParseDict(config, ModelConfig(), ignore_unknown_fields=True)

    def infer(self, model: str, input: str, array: Array, output: str) -> Answer:
        """One output of a model.

        Args:
            model, input, output: names.
            array: the input, of the datatype that the model takes.

        Raises:
            DebiexportError: the server is overloaded, refuses the request or fails.
        """
        from tritonclient.utils import np_to_triton_dtype

        tensor = self._module.InferInput(input, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)  # over HTTP in the binary form: as text it takes many times as long
        wanted = [self._module.InferRequestedOutput(output)]
        with self._explained(f"{len(array)} images for {model!r}", model):
            answer = self._client.infer(model, [tensor], outputs=wanted, **self._limit(ANSWER_S))
            result: Array | None = answer.as_numpy(output)
            response = answer.get_response()
            version = response.model_version if self._protocol == GRPC else response["model_version"]
        if result is None:
            raise DebiexportError(f"{self.server} answers without {output!r} of {model!r}: look at the server's log")
        return Answer(result, str(version))

    def _limit(self, seconds: float) -> dict[str, float]:
        """gRPC has its limit with every call, HTTP with the connection."""
        return {"client_timeout": seconds} if self._protocol == GRPC else {}

    def _require_life(self) -> None:
        from tritonclient.utils import InferenceServerException

        try:
            alive, reason = self._client.is_server_live(**self._limit(CONNECT_S)), "it says that it is not live"
        except (OSError, HTTPException, InferenceServerException) as error:
            alive, reason = False, _line(error)
        if not alive:
            advice = (
                "for the port of gRPC put grpc:// before it" if self._protocol == HTTP else "grpc:// is not for HTTP"
            )
            raise UsageError(
                f"no inference server answers at {self.server} ({reason}): start one, as with debiexport serve, or"
                f" check --server; {advice}"
            )

    @contextmanager
    def _explained(self, what: str, model: str = "") -> Iterator[None]:
        from google.protobuf.json_format import ParseError
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except (OSError, HTTPException) as error:
            raise DebiexportError(
                f"{self.server} broke off while it was asked for {what} ({_line(error)}): look at its log, and try"
                " again"
            ) from error
        except InferenceServerException as error:
            raise self._refusal(error, what, model) from error
        except (ParseError, ValueError, LookupError, TypeError, AttributeError) as error:  # of reading the answer
            raise DebiexportError(
                f"{self.server} answers in a form that is not the protocol's when asked for {what} ({_line(error)}):"
                " give --server an inference server"
            ) from error

    def _refusal(self, error: Any, what: str, model: str) -> DebiexportError:
        status = str(error.status() or "no status").removeprefix("StatusCode.")
        code, said = _CODES.get(status, status), f"{status}: {_line(error.message())}"
        if code == _NOT_FOUND and model:
            others = ", ".join(self.models()) or "none that is ready"
            return UsageError(f"{self.server} has no model {model!r}: give --model one of its models: {others}")
        if code in _BUSY:
            return DebiexportError(f"{self.server} is overloaded or stopping ({said}): try again in a moment")
        if code == _LATE:
            return DebiexportError(f"{self.server} took too long for {what} ({said}): try again, or with fewer images")
        return DebiexportError(f"{self.server} refuses {what} ({said}): look at the server's log")


def _line(error: object) -> str:
    """An error in one short line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())[:200] or type(error).__name__
