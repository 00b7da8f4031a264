"""The body of an inference over HTTP: JSON, with the tensors inside it or, in the binary extension, after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from debiexport.runtimes.base import Arrays
from debiexport.serve.http_json import Listed, decode, encode, shape_of, value_of
from debiexport.serve.models import LoadedModel
from debiexport.serve.refusals import BadRequest, shown
from debiexport.serve.requests import (
    InferRequest,
    NamedTensor,
    Raw,
    Signature,
    elements_per_image,
    little_endian,
    make_request,
)
from debiexport.triton.dtypes import protocol_type

JSON_LENGTH = "inference-header-content-length"
_ELSEWHERE = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


@dataclass(frozen=True)
class HttpRequest:
    """A request, and the outputs that are to be answered as bytes after the JSON."""

    request: InferRequest
    binary: frozenset[str]


def parse_request(
    signature: Signature, body: bytes | bytearray, json_length: str | None, arrived_ns: int | None = None
) -> HttpRequest:
    """Read a body.

    Args:
        signature: of the model.
        body: decompressed.
        json_length: the header Inference-Header-Content-Length, None where there is none.
        arrived_ns: when the request arrived; None for now.

    Raises:
        BadRequest: naming the input, what was expected and what was got.
    """
    view = memoryview(body)
    length = len(view) if json_length is None else _length(json_length, len(view))
    if json_length is not None and length == 0:
        return _only_bytes(signature, view, arrived_ns)
    content = decode(view[:length], signature)
    parameters = value_of(content, "parameters", dict, "the request", {})
    tensors = _Tensors(view[length:])
    inputs = [tensors.read(entry) for entry in value_of(content, "inputs", list, "the request", [])]
    tensors.end()
    outputs = [_output(entry) for entry in value_of(content, "outputs", list, "the request", [])]
    all_binary = value_of(parameters, "binary_data_output", bool, "the request", False)
    timeout = value_of(parameters, "timeout", int, "the request", 0)
    request = make_request(
        signature,
        inputs,
        [name for name, _ in outputs],
        id=value_of(content, "id", str, "the request", ""),
        timeout_us=timeout or None,
        arrived_ns=arrived_ns,
    )
    wanted = dict(outputs)
    chosen = {name: all_binary if wanted.get(name) is None else wanted[name] for name in request.outputs}
    return HttpRequest(request, frozenset(name for name, binary in chosen.items() if binary))


def answer_body(model: LoadedModel, request: HttpRequest, results: Arrays) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow it.

    Raises:
        BadRequest: an output is not finite, so it cannot be written as JSON.
    """
    described, data = [], []
    for name, array in results.items():
        datatype = protocol_type(array.dtype.name)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if name in request.binary:
            data.append(np.ascontiguousarray(array, little_endian(array.dtype.name)).tobytes())
            entry["parameters"] = {"binary_data_size": len(data[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    content = {
        "model_name": model.name,
        "model_version": str(model.version),
        **({"id": request.request.id} if request.request.id else {}),
        "outputs": described,
    }
    try:
        text = encode(content)
    except ValueError:
        raise BadRequest(
            "an output is not finite, which JSON cannot hold: ask for it with binary_data, or look at the input"
        ) from None
    return (b"".join([text, *data]), len(text)) if data else (text, None)


class _Tensors:
    """The bytes after the JSON, taken from their beginning input by input."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._taken = data, 0

    def read(self, entry: Any) -> NamedTensor:
        """An input of the JSON, with its bytes or its list.

        Raises:
            BadRequest: it is not described as the protocol asks, or the body is too short.
        """
        if not isinstance(entry, dict):
            raise BadRequest(f"inputs has {shown(entry)}, expected objects with name, shape and datatype")
        name = _required(entry, "name", str, "an input")
        where = f"input {shown(name)}"
        parameters = value_of(entry, "parameters", dict, where, {})
        _refuse_shared_memory(parameters, where)
        size = value_of(parameters, "binary_data_size", int, where)
        data = value_of(entry, "data", list, where)
        if (size is None) == (data is None):
            found = "neither" if size is None else "both"
            raise BadRequest(f"{where} has {found} of data and binary_data_size, expected one of them")
        return NamedTensor(
            name,
            _required(entry, "datatype", str, where),
            shape_of(name, _required(entry, "shape", list, where)),
            Listed(data) if size is None else Raw(self._take(size, where)),
        )

    def end(self) -> None:
        """Refuse bytes that belong to no input."""
        if left := len(self._data) - self._taken:
            raise BadRequest(f"{left} bytes of the body belong to no input, expected the inputs' bytes only")

    def _take(self, size: int, where: str) -> memoryview:
        left = len(self._data) - self._taken
        if not 0 <= size <= left:
            raise BadRequest(f"{where} has binary_data_size {shown(size)}, but {left} bytes are left of the body")
        taken = self._data[self._taken : self._taken + size]
        self._taken += size
        return taken


def _length(header: str, body: int) -> int:
    if not (header.isascii() and header.isdigit() and len(header) < 19 and int(header) <= body):
        raise BadRequest(
            f"Inference-Header-Content-Length is {shown(header)}, expected the length of the JSON, at most the"
            f" {body} bytes of the body"
        )
    return int(header)


def _only_bytes(signature: Signature, data: memoryview, arrived_ns: int | None) -> HttpRequest:
    """A body without JSON: the bytes of the only input, in whole images."""
    spec, *others = signature.inputs
    per_image = elements_per_image(spec) * np.dtype(spec.dtype).itemsize
    images = len(data) // per_image
    if others or len(data) != images * per_image:
        raise BadRequest(
            f"a body without JSON has {len(data)} bytes, expected input '{spec.name}' alone, {per_image} bytes an image"
        )
    shape = (images, *(side or 1 for side in spec.shape[1:]))
    tensor = NamedTensor(spec.name, protocol_type(spec.dtype), shape, Raw(data))
    request = make_request(signature, [tensor], arrived_ns=arrived_ns)
    return HttpRequest(request, frozenset(request.outputs))


def _output(entry: Any) -> tuple[str, bool | None]:
    """The name of an output that is asked for, and whether as bytes; None where that is not said."""
    if not isinstance(entry, dict):
        raise BadRequest(f"outputs has {shown(entry)}, expected objects with a name")
    name = _required(entry, "name", str, "an output")
    where = f"output {shown(name)}"
    parameters = value_of(entry, "parameters", dict, where, {})
    _refuse_shared_memory(parameters, where)
    if value_of(parameters, "classification", int, where, 0):
        raise BadRequest(f"{where} is asked for as classification, which is not served: ask for it as it is")
    return name, value_of(parameters, "binary_data", bool, where)


def _refuse_shared_memory(parameters: Mapping[str, Any], where: str) -> None:
    if any(key in parameters for key in _ELSEWHERE):
        raise BadRequest(f"{where} names shared memory, which is not served: send its data in the request")


def _required(entry: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in entry:
        raise BadRequest(f"{where} has no {key}")
    return value_of(entry, key, kind, where)
