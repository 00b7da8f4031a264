"""Running a graph: every node wide, its results rounded to the declared types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from debiexport.errors import BundleError, UsageError
from debiexport.evaluate.onnx.graph import read_graph
from debiexport.evaluate.onnx.steps import Step, prepare
from debiexport.evaluate.onnx.types import DOUBLE, TensorType, plain, rounded
from debiexport.runtimes.base import Array, Arrays

_Values = dict[str, torch.Tensor]


class OnnxEvaluator:
    """A typed ONNX model, ready to run on the CPU.

    It says what the file means: the numbers that follow if every node is exact to float32 (float64 where its
    inputs are) and only its results are rounded to their types. Hardware that accumulates in a narrower type, or
    fuses nodes, may give others.

    Args:
        model: a file, or a model in memory.
        keep_float32: round no float, inputs included: only the constants stay rounded as saved.

    Raises:
        BundleError: see `read_graph`; also a node of unknown inputs or attributes, or types that do not fit, such
            as float16 and float32 in one sum.
    """

    def __init__(self, model: str | Path | onnx.ModelProto, *, keep_float32: bool = False) -> None:
        self._graph = read_graph(model)
        self._keep_float32 = keep_float32
        self._steps = prepare(self._graph)
        self._types = self._graph.types()
        self._typed_batch: int | None = None
        self.inputs = dict(self._graph.inputs)
        self.outputs = list(self._graph.outputs)

    @property
    def batch(self) -> int | None:
        """The only batch it takes, or None if it takes any or its first input has no axes."""
        first = next(iter(self.inputs.values()), ())[:1]
        return first[0] if first and isinstance(first[0], int) else None

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """The outputs, and the tapped tensors, by name.

        Floating-point numbers narrower than float32 come as float32, which they fit in; the rest as declared.

        Args:
            inputs: by name, of the declared shapes; `self.inputs` has them. Numbers of another width are rounded.
            taps: names of tensors inside.

        Raises:
            UsageError: an input is missing, unknown or of another shape or kind.
            BundleError: no tensor of a tapped name; or a node cannot be computed, or its result is not of the
                declared type and shape.
        """
        if absent := [name for name in taps if name not in self._types]:
            raise BundleError(f"the model has no tensor {absent[0]!r} to tap: name one that a node computes")
        values, types = self._start(inputs)
        wanted = [*self.outputs, *taps]
        for _ in self._walk(values, types, {*wanted}):
            pass
        return {name: plain(values[name], types[name].dtype) for name in wanted}

    def first_not_finite(self, inputs: Mapping[str, Array]) -> tuple[str, str] | None:
        """Where infinities or NaN first appear, in the order of the file.

        Args:
            inputs: see `run`.

        Returns:
            The name of the node (that of its first output if it has none) and of its result; None if all
            results are finite. For an input that does not fit its own type, the node's name is "". Infinities
            that a graph means, as those of a mask, count too.

        Raises:
            UsageError, BundleError: see `run`.
        """
        values, types = self._start(inputs)
        for name in self.inputs:
            if not bool(torch.isfinite(values[name]).all()):
                return "", name
        for step, results in self._walk(values, types, set()):
            for name, result in results.items():
                if result.is_floating_point() and not bool(torch.isfinite(result).all()):
                    return step.node.name, name
        return None

    def _walk(self, values: _Values, types: Mapping[str, TensorType], kept: set[str]) -> Iterator[tuple[Step, _Values]]:
        """Run step after step; what is neither kept nor needed any more goes from the values."""
        for step in self._steps:
            with torch.no_grad():
                results = step.run(values, types, keep_float32=self._keep_float32)
            values.update(results)
            yield step, results
            del results
            for name in step.spent:
                if name not in kept and name not in self._graph.constants:
                    del values[name]

    def _start(self, inputs: Mapping[str, Array]) -> tuple[_Values, dict[str, TensorType]]:
        """The constants and inputs, and the types for the batch of the inputs."""
        given = {name: np.asarray(array) for name, array in inputs.items()}
        self._check_names(given)
        batches = {
            name: given[name].shape[0]
            for name, shape in self.inputs.items()
            if shape and isinstance(shape[0], str) and given[name].ndim
        }
        if len(set(batches.values())) > 1:
            raise UsageError(f"the inputs are of several batches, {batches}: give one")
        batch = next(iter(batches.values()), None)
        if batch != self._typed_batch:
            self._types, self._typed_batch = self._graph.types(batch), batch
        values = dict(self._graph.constants)
        values.update({name: self._input(name, array) for name, array in given.items()})
        return values, self._types

    def _check_names(self, inputs: Mapping[str, Array]) -> None:
        wanted = ", ".join(f"{name!r} {_shown(shape)}" for name, shape in self.inputs.items())
        if missing := [name for name in self.inputs if name not in inputs]:
            raise UsageError(f"no input {missing[0]!r}: give {wanted}")
        if unknown := [name for name in inputs if name not in self.inputs]:
            raise UsageError(f"the model has no input {unknown[0]!r}: give {wanted}")

    def _input(self, name: str, array: Array) -> torch.Tensor:
        """An input as a tensor of the declared type."""
        declared, shape = self._types[name], self.inputs[name]
        if not declared.admits(array.shape):
            raise UsageError(f"the input {name!r} has shape {list(array.shape)}: give {_shown(shape)}")
        if array.dtype.kind not in ("fiub" if declared.is_float else "iub"):
            raise UsageError(f"the input {name!r} is of {array.dtype}: give {declared}")
        wide: type[np.generic] = np.bool_ if array.dtype.kind == "b" else np.int64
        if declared.is_float:
            wide = np.float64 if declared.dtype == DOUBLE else np.float32
        tensor = torch.from_numpy(np.array(array, wide, order="C"))
        return tensor if self._keep_float32 and declared.is_float else rounded(tensor, declared.dtype)


def _shown(shape: tuple[int | str, ...]) -> str:
    """A shape for a message; the batch without a name is N."""
    return f"[{', '.join(str(size) if size != '' else 'N' for size in shape)}]"
