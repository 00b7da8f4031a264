"""Requests that no server of the protocol may take, over HTTP and gRPC: what is sent, and what has to come back.

Each is refused with a client error whose words say what is wrong. They are made for a model with one input of images,
of any size, so that a toy and a real model get the same.
"""

from __future__ import annotations

import gzip
import json
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

SERVICE = "/inference.GRPCInferenceService/"


@dataclass(frozen=True)
class Target:
    """The model that is asked: its name, the sides of an image (float32), and the most images of a request."""

    model: str
    sides: tuple[int, ...]
    max_batch: int
    input: str = "images"
    output: str = "logits"

    @property
    def values(self) -> int:
        """Of one image."""
        return math.prod(self.sides)

    @property
    def far_too_many_bytes(self) -> int:
        """More than any request for the model can need, even as JSON."""
        return 40 * self.max_batch * self.values + 2**20


@dataclass(frozen=True)
class Answer:
    """What came back: the status, of HTTP or the name of gRPC's, and the text of the error."""

    status: int | str
    text: str


@dataclass(frozen=True)
class Case:
    """A request and the answer that it has to get.

    Attributes:
        name: what is wrong.
        protocol: "http" or "grpc".
        payload: all bytes of a connection of HTTP, or of one message of gRPC.
        status: of HTTP, or the name of gRPC's.
        words: that the error's text holds, in any case of letters.
        method: of gRPC.
        half_close: whether the sending side is closed at the end, as by a client that breaks off.
    """

    name: str
    protocol: str
    payload: bytes
    status: int | str
    words: tuple[str, ...]
    method: str = "ModelInfer"
    half_close: bool = False

    def __str__(self) -> str:
        return f"{self.protocol}: {self.name}"

    def faults(self, answer: Answer) -> list[str]:
        """How an answer differs from what it has to be."""
        found = [] if answer.status == self.status else [f"{answer.status} where {self.status} is right"]
        return found + [f"{word!r} is not said" for word in self.words if word.lower() not in answer.text.lower()]


def send(case: Case, host: str, http_port: int, grpc_port: int, timeout_s: float = 20) -> Answer:
    """Send a case to a server and return its answer.

    Raises:
        OSError: an HTTP server does not answer.
    """
    if case.protocol == "http":
        return _send_http(case, host, http_port, timeout_s)
    with grpc.insecure_channel(f"{host}:{grpc_port}", [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(SERVICE + case.method)
        try:
            return Answer("OK", repr(call(case.payload, timeout=timeout_s))[:300])
        except grpc.RpcError as error:
            return Answer(error.code().name, error.details())


def _send_http(case: Case, host: str, port: int, timeout_s: float) -> Answer:
    with socket.create_connection((host, port), timeout_s) as connection:
        try:
            connection.sendall(case.payload)
            if case.half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the answer came before the end, and the server has hung up
        head, body = _read_answer(connection)
    lines = head.decode("latin-1").split("\r\n")
    text = body.decode("utf-8", "replace")
    try:
        text = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        text = f"no error in JSON: {text}"
    return Answer(int(lines[0].split(" ")[1]), text)


def _read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    expected = int(lengths[0].split(b":")[1])
    while len(body) < expected:
        body += _some(connection)
    return head, body[:expected]


def _some(connection: socket.socket) -> bytes:
    if not (chunk := connection.recv(65536)):
        raise ConnectionError("the server hung up without an answer")
    return chunk


def malformed_cases(target: Target) -> list[Case]:
    """Every case, of both protocols."""
    return [*_http_cases(target), *_grpc_cases(target)]


def _http_cases(target: Target) -> list[Case]:
    infer = f"/v2/models/{target.model}/infer"
    zeros = [0.0] * target.values
    one = [1, *target.sides]
    raw = bytes(4 * target.values)
    cases: list[Case] = []

    def post(
        name: str,
        body: bytes,
        words: Sequence[str],
        *,
        status: int = 400,
        path: str = infer,
        headers: Mapping[str, str] | None = None,
        half_close: bool = False,
        method: str = "POST",
    ) -> None:
        fields = {"Host": "test", "Content-Length": str(len(body)), **(headers or {})}
        lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {value}" for key, value in fields.items() if value)]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        cases.append(Case(name, "http", head + body, status, tuple(words), half_close=half_close))

    def text(name: str, body: str, words: Sequence[str], **more: Any) -> None:
        post(name, body.encode(), words, **more)

    def ask(name: str, words: Sequence[str], *, tensor: Mapping[str, Any] | None = None, **top: Any) -> None:
        """A request in JSON that is right but for what is given; None takes an entry out."""
        entry = {"name": target.input, "datatype": "FP32", "shape": one, "data": zeros, **(tensor or {})}
        content = {"inputs": [{key: value for key, value in entry.items() if value is not None}], **top}
        text(name, json.dumps(content), words)

    def binary(name: str, content: bytes, words: Sequence[str], *, size: Any = None, **changed: Any) -> None:
        """A request in binary that is right but for what is given."""
        size = len(content) if size is None else size
        entry = {"name": target.input, "datatype": "FP32", "shape": one, "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [entry | changed]}).encode()
        post(name, head + content, words, headers={"Inference-Header-Content-Length": str(len(head))})

    text("an empty body", "", ["JSON"])
    text("no JSON", "images", ["not JSON"])
    text("a list of JSON", "[]", ["a list", "expected an object"])
    text("a number of JSON", "1", ["a whole number", "expected an object"])
    text("JSON that is cut off", '{"inputs": [', ["not JSON"])
    text("JSON with a trailing comma", '{"inputs": [],}', ["not JSON"])
    post("no UTF-8", b'{"id": "\xff"}', ["UTF-8"])
    text("JSON nested without end", "[" * 3000 + "]" * 3000, ["nested"])
    text("a key twice", '{"inputs": [], "inputs": []}', ["'inputs'", "more than once"])
    too_many = "0," * (2 * target.max_batch * target.values + 9000)
    text("far too many values", f'{{"inputs": [{too_many}0]}}', ["values"])
    text("no inputs", "{}", [target.input, "missing"])
    text("inputs that are no list", '{"inputs": {}}', ["inputs", "expected a list"])
    text("inputs of null", '{"inputs": [null]}', ["inputs", "expected objects"])
    text("parameters that are no object", '{"parameters": [], "inputs": []}', ["parameters", "expected an object"])
    ask("an id that is a number", ["id", "expected a string"], id=7)
    ask("an id without end", ["id", "at most"], id="x" * 5000)
    ask("a timeout of words", ["timeout", "expected a whole number"], parameters={"timeout": "soon"})
    ask("a negative timeout", ["timeout", "-1"], parameters={"timeout": -1})
    ask("binary_data_output of words", ["binary_data_output"], parameters={"binary_data_output": "yes"})
    ask("an input without a name", ["name"], tensor={"name": None})
    ask("an input whose name is a number", ["name", "expected a string"], tensor={"name": 1})
    ask("an unknown input", ["pixels", f"expected '{target.input}'"], tensor={"name": "pixels"})
    ask("an input without a datatype", [target.input, "datatype"], tensor={"datatype": None})
    ask("another datatype", [target.input, "INT64", "expected FP32"], tensor={"datatype": "INT64"})
    ask("a datatype that there is not", [target.input, "float32", "expected FP32"], tensor={"datatype": "float32"})
    ask("an input without a shape", [target.input, "shape"], tensor={"shape": None})
    ask("a shape that is a number", [target.input, "shape", "expected a list"], tensor={"shape": 1})
    ask("a shape with a fraction", [target.input, "1.5", "whole numbers"], tensor={"shape": [1.5, *target.sides]})
    ask("a shape with true", [target.input, "whole numbers"], tensor={"shape": [True, *target.sides]})
    ask("a shape of other sides", [target.input, "expected [", "got [1,2,2,2]"], tensor={"shape": [1, 2, 2, 2]})
    ask("an empty shape", [target.input, "got []"], tensor={"shape": []})
    ask("a negative batch", [target.input, "-1"], tensor={"shape": [-1, *target.sides]})
    ask("a batch of none", [target.input, "got 0"], tensor={"shape": [0, *target.sides], "data": []})
    ask("a batch beyond all memory", [target.input, "batch"], tensor={"shape": [2**62, *target.sides]})
    ask(
        "a batch above the largest",
        [target.input, f"got {target.max_batch + 1}"],
        tensor={"shape": [target.max_batch + 1, *target.sides]},
    )
    ask("too few values", [target.input, f"expected {target.values}"], tensor={"data": zeros[1:]})
    ask("too many values", [target.input, f"expected {target.values}"], tensor={"data": [*zeros, 0.0]})
    ask("values nested otherwise", [target.input, "nested"], tensor={"data": [zeros, zeros]})
    ask("a word among the values", [target.input, "a string"], tensor={"data": ["0", *zeros[1:]]})
    ask("null among the values", [target.input, "null"], tensor={"data": [None, *zeros[1:]]})
    ask("true among the values", [target.input, "true or false"], tensor={"data": [True, *zeros[1:]]})
    ask("a value beyond FP32", [target.input, "finite"], tensor={"data": [1e39, *zeros[1:]]})
    ask("NaN among the values", ["NaN"], tensor={"data": [math.nan, *zeros[1:]]})
    ask("Infinity among the values", ["Infinity"], tensor={"data": [math.inf, *zeros[1:]]})
    ask("neither data nor bytes", [target.input, "neither"], tensor={"data": None})
    ask("data that is no list", [target.input, "data", "expected a list"], tensor={"data": "AAAA"})
    ask("an unknown output", ["scores", f"expected '{target.output}'"], outputs=[{"name": "scores"}])
    ask("an output twice", [target.output, "2 times"], outputs=[{"name": target.output}] * 2)
    ask("an output without a name", ["name"], outputs=[{}])
    shared = {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 4}}
    ask("an input in shared memory", ["shared memory"], tensor={"data": None, **shared})
    ask("an output in shared memory", ["shared memory"], outputs=[{"name": target.output, **shared}])
    twice = {"name": target.input, "datatype": "FP32", "shape": one, "data": zeros}
    text("an input twice", json.dumps({"inputs": [twice, twice]}), [target.input, "2 times"])
    long_number = json.dumps({"inputs": [{**twice, "data": []}]}).replace('"data": []', f'"data": [{"9" * 5000}]')
    text("a number of 5000 digits", long_number, ["JSON"])

    binary("bytes beside data", raw, [target.input, "both"], data=zeros)
    binary("a byte too few", raw[1:], [target.input, f"expected {len(raw)}"])
    binary("a byte too many", raw + b"\0", [target.input, f"expected {len(raw)}"])
    binary("fewer bytes than are announced", raw, [target.input, "left"], size=len(raw) + 1)
    binary("more bytes than are announced", raw, ["belong to no input"], size=len(raw) - 4)
    binary("a negative size", raw, [target.input, "-1"], size=-1)
    binary("a size of words", raw, [target.input, "binary_data_size"], size="all")
    binary("NaN among the bytes", np.full(target.values, math.nan, "<f4").tobytes(), [target.input, "NaN"])
    for name, value in (
        ("longer than the body", "999999999"),
        ("negative", "-1"),
        ("of words", "abc"),
        ("beyond 64 bits", "9" * 30),
    ):
        headers = {"Inference-Header-Content-Length": value}
        text(f"a length of the JSON that is {name}", "{}", ["Inference-Header-Content-Length"], headers=headers)
    post(
        "bytes alone that are no image",
        raw[1:],
        [target.input, "bytes"],
        headers={"Inference-Header-Content-Length": "0"},
    )

    text("an unknown model", "{}", ["'nothing'", "not found"], status=404, path="/v2/models/nothing/infer")
    text("an unknown version", "{}", ["99"], status=404, path=f"/v2/models/{target.model}/versions/99/infer")
    text("a version of words", "{}", ["'new'"], status=400, path=f"/v2/models/{target.model}/versions/new/infer")
    text("a path that climbs", "{}", ["no such path"], status=404, path="/v2/models/../../etc/passwd")
    text("an unknown path", "{}", ["no such path"], status=404, path="/v1/models")
    text("GET of an inference", "", ["GET"], status=405, method="GET")
    text("an unknown coding", "{}", ["br", "expected"], status=415, headers={"Content-Encoding": "br"})
    text("no gzip where it is said", "{}", ["gzip"], headers={"Content-Encoding": "gzip"})
    text("no zlib where it is said", "{}", ["deflate"], headers={"Content-Encoding": "deflate"})
    packed = gzip.compress(b"{}")
    post("gzip that is cut off", packed[:-4], ["cut off"], headers={"Content-Encoding": "gzip"})
    post("bytes after gzip", packed + b"more", ["follow"], headers={"Content-Encoding": "gzip"})
    bomb = gzip.compress(bytes(2 * target.far_too_many_bytes))
    post("gzip of far too many bytes", bomb, ["decompresses"], status=413, headers={"Content-Encoding": "gzip"})
    post("a body announced as a terabyte", b"{}", ["at most"], status=413, headers={"Content-Length": str(10**12)})
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    chunked = {"Transfer-Encoding": "chunked", "Content-Length": ""}
    endless = chunk * (target.far_too_many_bytes // 65536 + 1) + b"0\r\n\r\n"
    post("chunks of far too many bytes", endless, ["at most"], status=413, headers=chunked)
    post("a chunk without a length", b"zz\r\n{}\r\n", ["HTTP"], headers=chunked)
    post("a body that is cut off", b"{", ["body"], headers={"Content-Length": "100"}, half_close=True)
    post("a length of words", b"{}", ["Content-Length"], headers={"Content-Length": "two"})
    post("a negative length", b"{}", ["Content-Length"], headers={"Content-Length": "-2"})
    post("a head of a megabyte", b"", ["HTTP"], status=431, headers={"X-Long": "x" * 2**20})
    for name, start in (
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n"),
        ("a line without a version", b"POST /v2\r\n\r\n"),
        ("a version that is no number", b"GET /v2 HTTP/two\r\nHost: x\r\n\r\n"),
        ("a header without a colon", b"GET /v2 HTTP/1.1\r\nHost\r\n\r\n"),
        ("two lengths", b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        ("a head that is cut off", b"GET /v2 HT"),
    ):
        cases.append(Case(name, "http", start, 400, ("HTTP",), half_close=True))
    return cases


def _grpc_cases(target: Target) -> list[Case]:
    one = [1, *target.sides]
    raw = bytes(4 * target.values)
    cases: list[Case] = []

    def ask(
        wrong: str,
        words: Sequence[str],
        *,
        status: str = "INVALID_ARGUMENT",
        change: Callable[[Any], object] = lambda message: None,
        contents: Mapping[str, Sequence[Any]] | None = None,
        data: Sequence[bytes] = (raw,),
        outputs: Sequence[str] = (),
        inputs: int = 1,
        **fields: Any,
    ) -> None:
        """A message that is right but for what is given."""
        tensor = {"name": target.input, "datatype": "FP32", "shape": one, **fields}
        message = service_pb2.ModelInferRequest(model_name=target.model, raw_input_contents=data)
        for _ in range(inputs):
            added = message.inputs.add(**tensor)
            if contents is not None:
                added.contents.CopyFrom(service_pb2.InferTensorContents(**contents))
        for output in outputs:
            message.outputs.add(name=output)
        change(message)
        cases.append(Case(wrong, "grpc", message.SerializeToString(), status, tuple(words)))

    ask("an unknown model", ["'nothing'"], status="NOT_FOUND", change=lambda m: m.MergeFrom(_named("nothing")))
    ask("an unknown version", ["99"], status="NOT_FOUND", change=lambda m: setattr(m, "model_version", "99"))
    ask("a version of words", ["'new'"], change=lambda m: setattr(m, "model_version", "new"))
    ask("no inputs", [target.input, "missing"], inputs=0, data=())
    ask("an unknown input", ["pixels", f"expected '{target.input}'"], name="pixels")
    ask("an input twice", [target.input, "2 times"], inputs=2, data=(raw, raw))
    ask("another datatype", [target.input, "INT64", "expected FP32"], datatype="INT64")
    ask("no datatype", [target.input, "expected FP32"], datatype="")
    ask("a shape of other sides", [target.input, "got [1,2,2,2]"], shape=[1, 2, 2, 2])
    ask("no shape", [target.input, "got []"], shape=[])
    ask("a negative batch", [target.input, "-1"], shape=[-1, *target.sides])
    ask("a batch of none", [target.input, "got 0"], shape=[0, *target.sides], data=(b"",))
    ask("a batch beyond all memory", [target.input, "batch"], shape=[2**62, *target.sides])
    ask("a batch above the largest", [f"got {target.max_batch + 1}"], shape=[target.max_batch + 1, *target.sides])
    ask("a byte too few", [target.input, f"expected {len(raw)}"], data=(raw[1:],))
    ask("a byte too many", [target.input, f"expected {len(raw)}"], data=(raw + b"\0",))
    ask("more tensors than inputs", ["raw_input_contents", "expected 1"], data=(raw, raw))
    ask("no data at all", [target.input, f"expected {target.values}"], data=())
    ask("NaN among the bytes", [target.input, "NaN"], data=(np.full(target.values, math.nan, "<f4").tobytes(),))
    ask("data in both places", [target.input, "contents"], contents={"fp32_contents": [0.0]})
    ask("too few values", [target.input, "fp32_contents"], data=(), contents={"fp32_contents": [0.0]})
    ask("values of another type", [target.input, "int_contents"], data=(), contents={"int_contents": [1]})
    ask(
        "NaN among the values",
        [target.input, "NaN"],
        data=(),
        contents={"fp32_contents": [math.nan] * target.values},
    )
    ask("an unknown output", ["scores", f"expected '{target.output}'"], outputs=["scores"])
    ask("an output twice", [target.output, "2 times"], outputs=[target.output, target.output])
    ask("an id without end", ["id", "at most"], change=lambda m: setattr(m, "id", "x" * 5000))
    ask("a timeout of words", ["timeout"], change=lambda m: _parameter(m, "timeout", string_param="soon"))
    ask("a negative timeout", ["timeout", "-1"], change=lambda m: _parameter(m, "timeout", int64_param=-1))
    ask(
        "an input in shared memory",
        ["shared memory"],
        change=lambda m: _parameter(m.inputs[0], "shared_memory_region", string_param="r"),
    )
    ask(
        "a message of far too many bytes",
        ["larger than max"],
        status="RESOURCE_EXHAUSTED",
        data=(bytes(target.far_too_many_bytes),),
    )
    cases.append(Case("no message", "grpc", b"\xff\xff\xff\xff", "INVALID_ARGUMENT", ("cannot be read",)))
    cut = service_pb2.ModelInferRequest(model_name=target.model, raw_input_contents=[raw]).SerializeToString()[:-5]
    cases.append(Case("a message that is cut off", "grpc", cut, "INVALID_ARGUMENT", ("cannot be read",)))
    for method in ("ModelMetadata", "ModelConfig", "ModelStatistics"):
        unknown = getattr(service_pb2, f"{method}Request")(name="nothing").SerializeToString()
        cases.append(Case(f"{method} of an unknown model", "grpc", unknown, "NOT_FOUND", ("'nothing'",), method))
        cases.append(Case(f"{method} of no message", "grpc", b"\xff", "INVALID_ARGUMENT", ("cannot be read",), method))
    return cases


def _named(model: str) -> Any:
    return service_pb2.ModelInferRequest(model_name=model)


def _parameter(message: Any, name: str, **value: Any) -> None:
    message.parameters[name].MergeFrom(service_pb2.InferParameter(**value))
