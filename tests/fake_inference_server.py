"""Servers of the Open Inference Protocol that say whatever a test wants them to, over HTTP and over gRPC."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

CODES = {404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED", 500: "INTERNAL"}


@dataclass
class Script:
    """What a fake says.

    Attributes:
        config: the `ModelConfig` of its one model.
        logits: that it answers with, for images (N, ...) -> (N, classes) or something wrong.
        refuse: code that inferences are refused with; 0 for none.
        live: whether it says that it lives.
        garbled: answers to everything but the question of life are no JSON.
        batches: how many images each inference had.
    """

    config: Any
    logits: Any = None
    refuse: int = 0
    live: bool = True
    garbled: bool = False
    batches: list[int] = field(default_factory=list)

    def answer(self, shape: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.batches.append(shape[0])
        return np.asarray(self.logits(shape[0]), np.float32)


@contextmanager
def http_server(script: Script) -> Iterator[str]:
    """A fake over HTTP: its host and port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v2/health/live":
                self._say(200 if script.live else 503, b"")
            elif self.path == f"/v2/models/{script.config.name}/config":
                self._say(200, MessageToDict(script.config, preserving_proto_field_name=True))
            else:
                self._say(404, {"error": f"nothing at {self.path}"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/v2/repository/index":
                self._say(200, [{"name": script.config.name, "version": "1", "state": "READY"}])
            elif script.refuse:
                self._say(script.refuse, {"error": "not now"})
            else:
                header = json.loads(body[: int(self.headers["Inference-Header-Content-Length"])])
                logits = script.answer(header["inputs"][0]["shape"])
                tensor = {"name": "logits", "datatype": "FP32", "shape": logits.shape, "data": logits.ravel().tolist()}
                self._say(200, {"model_name": script.config.name, "model_version": "1", "outputs": [tensor]})

        def _say(self, code: int, data: Any) -> None:
            body = data if isinstance(data, bytes) else json.dumps(data).encode()
            if script.garbled and body:
                body = b"hello"
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def ServerLive(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=self._script.live)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        answer = service_pb2.RepositoryIndexResponse()
        answer.models.add(name=self._script.config.name, version="1", state="READY")
        return answer

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name != self._script.config.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {request.name}")
        return service_pb2.ModelConfigResponse(config=self._script.config)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        if self._script.refuse:
            context.abort(getattr(grpc.StatusCode, CODES[self._script.refuse]), "not now")
        logits = self._script.answer(list(request.inputs[0].shape))
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        answer.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        answer.raw_output_contents.append(logits.tobytes())
        return answer


@contextmanager
def grpc_server(script: Script) -> Iterator[str]:
    """A fake over gRPC: its address, as `--server` takes it."""
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(script), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
