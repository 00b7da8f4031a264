"""Engines of TensorRT, and of TensorRT for RTX, on the GPU; torch is not needed.

A run has four steps, which a measurement takes apart: the inputs are written into page-locked memory, uploaded,
computed on, and the outputs downloaded. `run` does them all and waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from debiexport.errors import BundleError, DebiexportError, MissingDependencyError, UsageError
from debiexport.runtimes.base import Array, Arrays
from debiexport.runtimes.cuda import DeviceMemory, PinnedMemory, Stream, require_gpu
from debiexport.targets.tensorrt.fingerprint import Fingerprint, fingerprint_of, refuse
from debiexport.targets.tensorrt.logger import make_logger
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.version import require_flavour

Shape = tuple[int, ...]
_DTYPES: dict[str, npt.DTypeLike] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class _Tensor:
    """An input or output, and its memory for the largest batch."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    device: DeviceMemory
    host: PinnedMemory

    def shape_of(self, batch: int) -> Shape:
        return (batch, *self.shape[1:]) if self.shape[0] == -1 else self.shape

    def nbytes_of(self, batch: int) -> int:
        return int(np.prod(self.shape_of(batch), dtype=np.int64)) * self.dtype.itemsize

    def array(self, batch: int) -> Array:
        return self.host.array(self.shape_of(batch), self.dtype)


class TensorRTRuntime:
    """An engine, with memory for its largest batch. One caller at a time.

    Args:
        plan: the engine's file; its hash is the caller's business.
        fingerprint: what the engine is bound to.

    Raises:
        MissingDependencyError: TensorRT, cuda-bindings or a GPU is not here, or another than the engine is bound to;
            TensorRT has not seen the engine then.
        BundleError: TensorRT refuses the file, or it is an engine that this project does not build.
        DebiexportError: CUDA fails, such as for want of memory.
    """

    def __init__(self, plan: Path, fingerprint: Fingerprint) -> None:
        self.path, self.fingerprint = plan, fingerprint
        what = f"running {plan.name}"
        module = require_flavour(fingerprint.flavour, what)
        here = fingerprint_of(fingerprint.flavour, module, require_gpu(what))
        if reason := refuse(fingerprint, here):
            raise MissingDependencyError(f"{plan.name} cannot run here: {reason}")
        try:
            content = plan.read_bytes()
        except OSError as error:
            raise BundleError(f"{plan} cannot be read ({error.strerror}): export again") from error

        logger, self._errors = make_logger(module)
        self._runtime = module.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BundleError(
                f"{plan.name} is refused by TensorRT: {self._errors.told}; it is damaged or no engine: build it again"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise DebiexportError(f"{plan.name} gets no context: {self._errors.told}; free memory of the GPU")
        self.stream = Stream()
        self.profile = self._profile(module)
        self._inputs, self._outputs = self._tensors(module)
        self._batch = self.profile.max
        self._shaped: int | None = None

    @property
    def batch(self) -> int | None:
        """The only batch it takes, or None for the range of `profile`."""
        return self.profile.batch

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of the inputs; of an engine for several batches the first side is "N"."""
        return {t.name: tuple("N" if side == -1 else side for side in t.shape) for t in self._inputs}

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [tensor.name for tensor in self._outputs]

    @property
    def written_batch(self) -> int:
        """The batch of the inputs written last; the largest before any."""
        return self._batch

    @property
    def transferred_bytes(self) -> tuple[int, int]:
        """What goes to the GPU and what comes back in a run of `written_batch`."""
        up, down = (sum(t.nbytes_of(self._batch) for t in side) for side in (self._inputs, self._outputs))
        return up, down

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """See `Runtime.run`; only outputs can be tapped, as nothing else of the graph is left in an engine.

        Raises:
            UsageError: an input is missing, unknown, of another shape or kind, or of a batch out of the profile.
            BundleError: a tap is no output.
            DebiexportError: TensorRT or CUDA fails.
        """
        if inside := [name for name in taps if name not in self.outputs]:
            raise BundleError(
                f"{self.path.name} has no output {inside[0]!r}, and an engine keeps no tensors inside: run the bundle's"
                " ONNX model to see it"
            )
        self.write(inputs)
        self.upload()
        self.enqueue()
        self.download()
        self.stream.synchronize()
        return self.read()

    def write(self, inputs: Mapping[str, Array]) -> None:
        """Put the inputs of a run into page-locked memory and tell TensorRT their batch. The last run must be over.

        Raises:
            UsageError: see `run`.
        """
        given = {name: np.asarray(array) for name, array in inputs.items()}
        if given.keys() != (known := {tensor.name for tensor in self._inputs}):
            raise UsageError(f"the inputs are {', '.join(sorted(given)) or 'none'}: give {', '.join(sorted(known))}")
        batch = self._batch_of(given)
        for tensor in self._inputs:
            array, shape = given[tensor.name], tensor.shape_of(batch)
            if array.shape != shape or not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
                told = f"{list(array.shape)} of {array.dtype}"
                raise UsageError(f"the input {tensor.name!r} is {told}: give {list(shape)} of {tensor.dtype}")
            np.copyto(tensor.array(batch), array, casting="same_kind")
        self._batch = batch
        self._shape(batch)

    def upload(self) -> None:
        """Begin to copy the inputs to the GPU."""
        for tensor in self._inputs:
            self.stream.upload(tensor.device, tensor.host, tensor.nbytes_of(self._batch))

    def enqueue(self) -> None:
        """Begin to compute.

        Raises:
            DebiexportError: TensorRT refuses.
        """
        if not self._context.execute_async_v3(self.stream.handle):
            raise DebiexportError(f"{self.path.name} does not run: {self._errors.told}; build it again")

    def download(self) -> None:
        """Begin to copy the outputs back."""
        for tensor in self._outputs:
            self.stream.download(tensor.host, tensor.device, tensor.nbytes_of(self._batch))

    def read(self) -> Arrays:
        """Copies of the outputs; the stream must have been waited for."""
        return {tensor.name: tensor.array(self._batch).copy() for tensor in self._outputs}

    def close(self) -> None:
        """Give back the memory and the stream. The engine goes with the last reference to this."""
        self.stream.synchronize()
        for tensor in (*self._inputs, *self._outputs):
            tensor.device.close()
            tensor.host.close()
        self.stream.close()

    def _batch_of(self, given: Mapping[str, Array]) -> int:
        free = [tensor.name for tensor in self._inputs if tensor.shape[0] == -1]
        if not free:
            return self.profile.max
        batch = given[free[0]].shape[0] if given[free[0]].ndim else 0
        if not self.profile.admits(batch):
            raise UsageError(
                f"a batch of {batch}, but {self.path.name} takes {self.profile}: build for it, or split it"
            )
        return batch

    def _shape(self, batch: int) -> None:
        """Tell TensorRT the shapes, unless it knows them."""
        if batch == self._shaped:
            return
        for tensor in (t for t in self._inputs if t.shape[0] == -1):
            if not self._context.set_input_shape(tensor.name, tensor.shape_of(batch)):
                raise DebiexportError(
                    f"{self.path.name} refuses a batch of {batch}: {self._errors.told}; build it again"
                )
        self._shaped = batch

    def _profile(self, module: Any) -> Profile:
        """The batches that the engine was built for."""
        for name in self._names():
            shape = tuple(self._engine.get_tensor_shape(name))
            if self._engine.get_tensor_mode(name) == module.TensorIOMode.INPUT and shape:
                sides = [shape] * 3 if shape[0] != -1 else self._engine.get_tensor_profile_shape(name, 0)
                return Profile.from_dict(dict(zip(("min", "opt", "max"), (s[0] for s in sides), strict=True)))
        raise BundleError(f"{self.path.name} has no input with a batch: it was not built by debiexport")

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]

    def _tensors(self, module: Any) -> tuple[list[_Tensor], list[_Tensor]]:
        """Inputs and outputs with their memory, known to the context."""
        sides: tuple[list[_Tensor], list[_Tensor]] = [], []
        for name in self._names():
            shape, told = tuple(self._engine.get_tensor_shape(name)), self._engine.get_tensor_dtype(name).name
            if told not in _DTYPES or -1 in shape[1:]:
                raise BundleError(f"{name!r} of {self.path.name} is {list(shape)} of {told}: not built by debiexport")
            dtype = np.dtype(_DTYPES[told])
            largest = int(np.prod([self.profile.max if s == -1 else s for s in shape], dtype=np.int64)) * dtype.itemsize
            tensor = _Tensor(name, shape or (1,), dtype, DeviceMemory(largest), PinnedMemory(largest))
            if not self._context.set_tensor_address(name, tensor.device.handle):
                raise DebiexportError(
                    f"{self.path.name} refuses memory for {name!r}: {self._errors.told}; build it again"
                )
            sides[self._engine.get_tensor_mode(name) != module.TensorIOMode.INPUT].append(tensor)
        return sides
