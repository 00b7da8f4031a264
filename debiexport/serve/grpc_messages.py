"""The messages of an inference over gRPC: tensors as raw bytes, or as typed lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from debiexport.runtimes.base import Array, Arrays
from debiexport.serve.models import LoadedModel
from debiexport.serve.refusals import BadRequest, shown
from debiexport.serve.requests import (
    InferRequest,
    NamedTensor,
    Raw,
    Signature,
    little_endian,
    make_request,
    side_list,
)
from debiexport.signature import TensorSpec
from debiexport.triton.dtypes import protocol_type

Message = Any  # protobuf's classes are made at run time and have no types to check

# The field of InferTensorContents that holds a type's values.
_FIELDS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "BOOL": "bool_contents",
}


@dataclass(frozen=True)
class Typed:
    """Values in one of the lists of a message."""

    contents: Message

    def array(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        datatype = protocol_type(spec.dtype)
        filled = [field.name for field, _ in self.contents.ListFields()]
        field = _FIELDS.get(datatype)
        if field is None:
            raise BadRequest(f"input '{spec.name}' is of {datatype}, expected in raw_input_contents")
        if filled not in ([field], []):
            raise BadRequest(f"input '{spec.name}' has {', '.join(filled)}, expected {field} for {datatype}")
        values, expected = getattr(self.contents, field), int(np.prod(shape))
        if len(values) != expected:
            raise BadRequest(
                f"input '{spec.name}' has {len(values)} values in {field}, expected {expected} for the shape"
                f" {side_list(shape)}"
            )
        array, dtype = np.array(values), np.dtype(spec.dtype)
        if dtype.kind in "iu" and not (np.iinfo(dtype).min <= array.min() <= array.max() <= np.iinfo(dtype).max):
            raise BadRequest(
                f"input '{spec.name}' has values from {array.min()} to {array.max()}, expected {datatype} of"
                f" {np.iinfo(dtype).min} to {np.iinfo(dtype).max}"
            )
        return array.astype(dtype).reshape(shape)


def parse_message(signature: Signature, message: Message, arrived_ns: int, left_s: float | None) -> InferRequest:
    """Read a ModelInferRequest.

    Args:
        signature: of the model.
        message: the request.
        arrived_ns: when it arrived.
        left_s: seconds that the client still waits; None for ever.

    Raises:
        BadRequest: naming the input, what was expected and what was got.
    """
    raw, inputs = message.raw_input_contents, message.inputs
    if raw and len(raw) != len(inputs):
        raise BadRequest(f"raw_input_contents has {len(raw)} tensors, expected {len(inputs)}, one for each of inputs")
    tensors = []
    for place, tensor in enumerate(inputs):
        _refuse_shared_memory(tensor.parameters, f"input {shown(tensor.name)}")
        if raw and tensor.HasField("contents") and tensor.contents.ListFields():
            raise BadRequest(f"input {shown(tensor.name)} has contents beside raw_input_contents, expected one of them")
        values = Raw(raw[place]) if raw else Typed(tensor.contents)
        tensors.append(NamedTensor(tensor.name, tensor.datatype, tuple(tensor.shape), values))
    for output in message.outputs:
        where = f"output {shown(output.name)}"
        _refuse_shared_memory(output.parameters, where)
        if output.parameters["classification"].int64_param if "classification" in output.parameters else 0:
            raise BadRequest(f"{where} is asked for as classification, which is not served: ask for it as it is")
    return make_request(
        signature,
        tensors,
        [output.name for output in message.outputs],
        id=message.id,
        timeout_us=_timeout_us(message, left_s),
        arrived_ns=arrived_ns,
    )


def answer_message(model: LoadedModel, request: InferRequest, results: Arrays) -> Message:
    """The ModelInferResponse of a request."""
    answer = service_pb2.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    for name, array in results.items():
        dtype = array.dtype.name
        answer.outputs.add(name=name, datatype=protocol_type(dtype), shape=array.shape)
        answer.raw_output_contents.append(np.ascontiguousarray(array, little_endian(dtype)).tobytes())
    return answer


def _timeout_us(message: Message, left_s: float | None) -> int | None:
    """The nearer of the request's own deadline and the client's."""
    chosen: int | None = None
    if "timeout" in message.parameters:
        parameter = message.parameters["timeout"]
        kind = parameter.WhichOneof("parameter_choice")
        if kind not in ("int64_param", "uint64_param"):
            raise BadRequest(f"the parameter timeout is given as {kind}, expected int64_param, microseconds")
        chosen = getattr(parameter, kind) or None
    if left_s is None or left_s > 3600:
        return chosen
    left_us = max(1, int(left_s * 1e6))
    return left_us if chosen is None or left_us < chosen else chosen


def _refuse_shared_memory(parameters: Message, where: str) -> None:
    if any(key.startswith("shared_memory_") for key in parameters):
        raise BadRequest(f"{where} names shared memory, which is not served: send its data in the request")
