"""Running a program: every operation in float32, its result rounded to the declared type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from debiexport.errors import BundleError, UsageError
from debiexport.evaluate.description import Feature
from debiexport.evaluate.dtypes import STRING, is_float
from debiexport.evaluate.program import Argument, Program, TensorType, Value
from debiexport.evaluate.rounding import round_to
from debiexport.evaluate.steps import Step, fits, held, prepare
from debiexport.runtimes.base import Array

_CHANNELS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}


class Evaluator:
    """A function of a program, ready to run on the CPU.

    It says what the file means: the numbers that follow if every operation is exact to float32 and only its
    result is rounded. Hardware that accumulates in a narrower type, or approximates, may give others.

    Args:
        program: see `read_program`.
        function: its name; None is the default function.
        keep_float32: keep activations, inputs included, in float32: only the weights stay rounded as saved.

    Raises:
        UsageError: no such function.
        BundleError: operations that cannot be computed here (all are named, with their counts), damaged
            weights, or an image input of an unknown kind.
    """

    def __init__(self, program: Program, function: str | None = None, *, keep_float32: bool = False) -> None:
        self._function = program.function(function)
        self._keep_float32 = keep_float32
        self._steps = prepare(self._function)
        self._images = self._function.description.images
        self.inputs = {value.name: self._input_shape(value) for value in self._function.inputs}
        self.outputs = list(self._function.outputs)
        self._named: dict[str, Any] = {}
        self._in_place: dict[Argument, Any] = {}
        self._decode()

    @property
    def batch(self) -> int | None:
        """The only batch it takes; None if its first input has no axes."""
        shape = next(iter(self.inputs.values()), ())
        return shape[0] if shape else None

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> dict[str, Any]:
        """The outputs, and the tapped values, by name.

        Floating-point numbers come as float32 arrays whatever their declared type, which they have been rounded
        to. Of a classifier, the label is a str or int and the probabilities are a dict of floats by label.

        Args:
            inputs: by name, of the declared shapes; `self.inputs` has them. An image is uint8 (1, H, W, 3), RGB
                whatever order the program wants.
            taps: names of values inside.

        Raises:
            UsageError: an input is missing, unknown or of another shape or kind.
            BundleError: no value of a tapped name; or an operation cannot be computed, or its result is not of
                the declared shape and kind.
        """
        self._check_names(inputs, taps)
        values: dict[str, Any] = dict(self._named)
        kept = {*self.outputs, *taps}
        with torch.no_grad():
            for value in self._function.inputs:
                values[value.name] = self._input(value, np.asarray(inputs[value.name]))
            for step in self._steps:
                self._run(step, values)
                for name in step.spent:
                    if name not in kept and name not in self._named:
                        del values[name]
        return {name: _plain(values[name]) for name in (*self.outputs, *taps)}

    def _run(self, step: Step, values: dict[str, Any]) -> None:
        """Compute an operation and put its results among the values."""
        operation = step.operation
        for declared, result in zip(operation.outputs, step.run(values, self._in_place), strict=True):
            if isinstance(declared.type, TensorType) and declared.type.dtype != STRING and torch.is_tensor(result):
                if not fits(result, declared.type):
                    found = f"{str(result.dtype).removeprefix('torch.')}{list(result.shape)}"
                    raise BundleError(
                        f"{operation.name!r} ({operation.type}) gives {found} where {declared.name!r} is declared"
                        f" {declared.type}: the model is damaged, export it again"
                    )
                result = self._rounded(result, declared.type.dtype)
            values[declared.name] = result

    def _rounded(self, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
        return round_to(tensor, "fp32" if self._keep_float32 and is_float(dtype) else dtype)

    def _decode(self) -> None:
        """Every constant that an operation takes or the function returns, decoded once."""
        function = self._function
        arguments = [each for step in self._steps for group in step.operation.inputs.values() for each in group]
        for argument in (*arguments, *(Argument(name) for name in function.outputs)):
            if not function.is_constant(argument) or argument.name in self._named:
                continue
            constant = held(function.value_of(argument), function.type_of(argument))
            if argument.name is None:
                self._in_place[argument] = constant
            else:
                self._named[argument.name] = constant

    def _input_shape(self, value: Value) -> tuple[int, ...]:
        """The shape that `run` takes for an input."""
        if not isinstance(value.type, TensorType):
            raise BundleError(f"the input {value.name!r} is no tensor: export it again")
        image = self._images.get(value.name)
        if image is None:
            return value.type.shape
        if image.color not in _CHANNELS:
            raise BundleError(f"the image {value.name!r} is {image.color}: export it as RGB or BGR")
        if value.type.shape != (1, 3, image.height, image.width):
            raise BundleError(
                f"the image {value.name!r} is described as {image.height} x {image.width} pixels,"
                f" the program takes {value.type}: export it again"
            )
        return (1, image.height, image.width, 3)

    def _check_names(self, inputs: Mapping[str, Array], taps: Sequence[str]) -> None:
        wanted = ", ".join(f"{name!r} {list(shape)}" for name, shape in self.inputs.items())
        if missing := [name for name in self.inputs if name not in inputs]:
            raise UsageError(f"no input {missing[0]!r}: give {wanted}")
        if unknown := [name for name in inputs if name not in self.inputs]:
            raise UsageError(f"the program has no input {unknown[0]!r}: give {wanted}")
        if absent := [name for name in taps if name not in self._function.types]:
            raise BundleError(f"function {self._function.name!r} has no value {absent[0]!r} to tap")
        for name in taps:  # constants are decoded only where something takes them
            if self._function.is_constant(Argument(name)) and name not in self._named:
                self._named[name] = held(self._function.constant(name), self._function.types[name])

    def _input(self, value: Value, array: Array) -> torch.Tensor:
        """An input as a tensor of the declared type."""
        assert isinstance(value.type, TensorType)
        shape, image = self.inputs[value.name], self._images.get(value.name)
        if array.shape != shape:
            raise UsageError(f"the input {value.name!r} has shape {list(array.shape)}: give {list(shape)}")
        if image is not None:
            return self._rounded(_image_tensor(array, image), value.type.dtype)
        floats = is_float(value.type.dtype)
        if array.dtype.kind not in ("fiub" if floats else "iub"):
            raise UsageError(f"the input {value.name!r} is of {array.dtype}: give {value.type}")
        wide = np.float32 if floats else np.bool_ if array.dtype.kind == "b" else np.int64
        return self._rounded(torch.from_numpy(np.array(array, wide, order="C")), value.type.dtype)


def _image_tensor(array: Array, image: Feature) -> torch.Tensor:
    """An RGB image (1, H, W, 3) of bytes as float32 (1, 3, H, W), 0 to 255, in the channel order of the model."""
    if array.dtype != np.uint8:
        raise UsageError(f"the image {image.name!r} is of {array.dtype}: give uint8")
    assert image.color is not None
    planes = array.transpose(0, 3, 1, 2)[:, list(_CHANNELS[image.color])]
    return torch.from_numpy(np.array(planes, np.float32, order="C"))


def _plain(value: Any) -> Any:
    """A value for the caller, who may change it."""
    return value.numpy().copy() if torch.is_tensor(value) else value
