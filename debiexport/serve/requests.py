"""Named tensors of any protocol become one internal request, checked against the model before it can join a batch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from debiexport.runtimes.base import Array, Arrays
from debiexport.serve.refusals import BadRequest, shown
from debiexport.signature import TensorSpec
from debiexport.triton.dtypes import protocol_type

LONGEST_ID = 1024
LONGEST_TIMEOUT_US = 3_600_000_000
MOST_SIDES = 8


@dataclass(frozen=True)
class Signature:
    """What requests to a model have to look like.

    Attributes:
        model: its name.
        inputs, outputs: with the batch as their first side, None where several are taken.
        max_images: the most images of one request; exactly so many where the batch is fixed.
        fixed: whether the batch is fixed.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_images: int
    fixed: bool

    @property
    def largest_elements(self) -> int:
        """Values that the inputs of one request can have together."""
        return sum(self.max_images * elements_per_image(spec) for spec in self.inputs)

    @property
    def largest_bytes(self) -> int:
        """Bytes that the inputs of one request can have together."""
        return sum(self.max_images * elements_per_image(spec) * np.dtype(spec.dtype).itemsize for spec in self.inputs)


class Values(Protocol):
    """The values of a tensor in the form in which they came."""

    def array(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        """They as an array of the shape, which has been checked already.

        Raises:
            BadRequest: they are of another number or kind.
        """
        ...


@dataclass(frozen=True)
class Raw:
    """The bytes of a tensor, row by row, little-endian."""

    data: bytes | memoryview

    def array(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        dtype = little_endian(spec.dtype)
        expected, got = math.prod(shape) * dtype.itemsize, len(self.data)
        if got != expected:
            raise BadRequest(
                f"input '{spec.name}' has {got} bytes of data, expected {expected} for the shape"
                f" {side_list(shape)} of {protocol_type(spec.dtype)}"
            )
        return np.frombuffer(self.data, dtype).reshape(shape)


@dataclass(frozen=True)
class NamedTensor:
    """An input as a client describes it; nothing of it has been checked but its types."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values


@dataclass(frozen=True)
class InferRequest:
    """A request that the model can run.

    Attributes:
        id: of the client's choice, echoed; "" for none.
        inputs: arrays by name, as the model takes them.
        images: in the batch.
        outputs: names of those that are asked for, in order.
        arrived_ns: when it arrived, of `time.perf_counter_ns`.
        deadline_ns: after which nobody wants the answer, of the same clock; None for never.
    """

    id: str
    inputs: Arrays
    images: int
    outputs: tuple[str, ...]
    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    deadline_ns: int | None = None

    @property
    def expired(self) -> bool:
        return self.deadline_ns is not None and time.perf_counter_ns() >= self.deadline_ns


def make_request(
    signature: Signature,
    tensors: Sequence[NamedTensor],
    outputs: Sequence[str] = (),
    *,
    id: str = "",
    timeout_us: int | None = None,
    arrived_ns: int | None = None,
) -> InferRequest:
    """Check everything that a client has said.

    Args:
        signature: of the model.
        tensors: the inputs.
        outputs: that are asked for; none are all.
        id: echoed.
        timeout_us: microseconds from the arrival after which the answer is of no use.
        arrived_ns: when the request arrived; None for now.

    Raises:
        BadRequest: naming the input, what was expected and what was got.
    """
    if len(id) > LONGEST_ID:
        raise BadRequest(f"the id has {len(id)} characters, expected at most {LONGEST_ID}")
    _check_names(signature, [tensor.name for tensor in tensors])
    by_name = {tensor.name: tensor for tensor in tensors}
    for spec in signature.inputs:
        _check_type_and_shape(signature, spec, by_name[spec.name])
    images = by_name[signature.inputs[0].name].shape[0]
    for spec in signature.inputs[1:]:
        if (other := by_name[spec.name].shape[0]) != images:
            raise BadRequest(
                f"input '{spec.name}' has a batch of {other}, expected {images} as of '{signature.inputs[0].name}'"
            )
    arrived = time.perf_counter_ns() if arrived_ns is None else arrived_ns
    return InferRequest(
        id=id,
        inputs={spec.name: _array(spec, by_name[spec.name]) for spec in signature.inputs},
        images=images,
        outputs=_check_outputs(signature, outputs),
        arrived_ns=arrived,
        deadline_ns=None if timeout_us is None else arrived + 1000 * _check_timeout(timeout_us),
    )


def little_endian(dtype: str) -> np.dtype[Any]:
    """The type of values as they travel, whatever this machine's own order is."""
    return np.dtype(dtype).newbyteorder("<")


def elements_per_image(spec: TensorSpec) -> int:
    """Values of one row of the batch."""
    return math.prod(side or 1 for side in spec.shape[1:])


def side_list(shape: Sequence[int | None]) -> str:
    """A shape as the protocol writes it: [-1,3,224,224], -1 for any batch."""
    return f"[{','.join(str(-1 if side is None else side) for side in shape)}]"


def _check_names(signature: Signature, names: Sequence[str]) -> None:
    expected = [spec.name for spec in signature.inputs]
    for name in names:
        if name not in expected:
            raise BadRequest(
                f"unexpected inference input {shown(name)} for model '{signature.model}', expected {_quoted(expected)}"
            )
        if names.count(name) > 1:
            raise BadRequest(f"input '{name}' is given {names.count(name)} times, expected once")
    missing = [name for name in expected if name not in names]
    if missing:
        raise BadRequest(
            f"expected {len(expected)} inputs but got {len(names)} inputs for model '{signature.model}': missing are"
            f" {_quoted(missing)}"
        )


def _check_type_and_shape(signature: Signature, spec: TensorSpec, tensor: NamedTensor) -> None:
    expected_type = protocol_type(spec.dtype)
    if tensor.datatype != expected_type:
        raise BadRequest(
            f"input '{spec.name}' has the datatype {shown(tensor.datatype)}, expected {expected_type} for model"
            f" '{signature.model}'"
        )
    got = side_list(tensor.shape[:MOST_SIDES]) + ("…" if len(tensor.shape) > MOST_SIDES else "")
    fits = len(tensor.shape) == len(spec.shape) and all(
        wanted in (None, side) for wanted, side in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise BadRequest(
            f"unexpected shape for input '{spec.name}' for model '{signature.model}'. Expected"
            f" {side_list(spec.shape)}, got {got}"
        )
    images = tensor.shape[0]
    if not 1 <= images <= signature.max_images:
        raise BadRequest(
            f"input '{spec.name}' has the shape {got}: inference request batch-size must be 1 to"
            f" {signature.max_images} for '{signature.model}', got {images}"
        )


def _array(spec: TensorSpec, tensor: NamedTensor) -> Array:
    array = tensor.values.array(spec, tensor.shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequest(f"input '{spec.name}' has NaN or infinite values, expected finite {protocol_type(spec.dtype)}")
    # As this machine and the runtime have it; no copy where it is so already.
    return np.require(array, np.dtype(spec.dtype), ["C", "A"])


def _check_outputs(signature: Signature, names: Sequence[str]) -> tuple[str, ...]:
    have = [spec.name for spec in signature.outputs]
    for name in names:
        if name not in have:
            raise BadRequest(
                f"unexpected inference output {shown(name)} for model '{signature.model}', expected {_quoted(have)}"
            )
        if names.count(name) > 1:
            raise BadRequest(f"output '{name}' is asked for {names.count(name)} times, expected once")
    return tuple(names or have)


def _check_timeout(timeout_us: int) -> int:
    """Bounded, so that no arithmetic on it overflows; Triton takes 0 for no timeout, which never comes here."""
    if not 0 < timeout_us <= LONGEST_TIMEOUT_US:
        raise BadRequest(
            f"the parameter timeout is {shown(timeout_us)}, expected microseconds, at most {LONGEST_TIMEOUT_US}"
        )
    return timeout_us


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
