"""The operations of a function, made ready to run one after the other."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from debiexport.errors import BundleError
from debiexport.evaluate.dtypes import DTYPES, STRING, is_float
from debiexport.evaluate.ops.table import OPERATIONS
from debiexport.evaluate.program import Argument, Function, ListType, Operation, TensorType, ValueType
from debiexport.evaluate.rounding import holder
from debiexport.runtimes.base import Array

_SYSTEMS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}
_SEVERAL = "values"  # the parameter that takes several tensors
# AttributeError: a text or a list where a tensor has to be.
_FAILURES = (ValueError, IndexError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError)
_WIDER: dict[str, type[np.generic]] = {"fp16": np.float32, "uint16": np.int32, "uint32": np.int64}


@dataclass(frozen=True, eq=False)
class Step:
    """One operation.

    Attributes:
        operation: as the program has it.
        compute: the function that computes it; see `ops`.
        context: what the function asks for beside its parameters.
        spent: names of the values that nothing needs after it.
    """

    operation: Operation
    compute: Callable[..., Any]
    context: dict[str, Any]
    spent: tuple[str, ...]

    def run(self, values: Mapping[str, Any], constants: Mapping[Argument, Any]) -> tuple[Any, ...]:
        """The results, as many as the operation declares outputs.

        Args:
            values: by name.
            constants: those written in place.

        Raises:
            BundleError: the arguments do not fit each other.
        """

        def value_of(argument: Argument) -> Any:
            return values[argument.name] if argument.name is not None else constants[argument]

        operation = self.operation
        parameters = {
            key: [value_of(argument) for argument in arguments] if key == _SEVERAL else value_of(arguments[0])
            for key, arguments in operation.inputs.items()
        }
        try:
            results = self.compute(**parameters, **self.context)
        except _FAILURES as error:
            raise BundleError(
                f"{operation.name!r} ({operation.type}) cannot be computed: {_line(error)}; export it again"
            ) from error
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(operation.outputs):
            raise BundleError(
                f"{operation.name!r} ({operation.type}) gives {len(results)} results, declared are"
                f" {len(operation.outputs)}: export it again"
            )
        return results


def prepare(function: Function) -> list[Step]:
    """The steps of a function, constants left out.

    Raises:
        BundleError: some operations cannot be computed here (all are named, with their counts), or one has
            parameters or results that its kind does not know.
    """
    _refuse_unknown(function)
    running = [operation for operation in function.operations if not operation.is_constant]
    needed = set(function.outputs)
    spent: list[tuple[str, ...]] = []
    for operation in reversed(running):
        touched = {value.name for value in operation.outputs}
        touched |= {argument.name for arguments in operation.inputs.values() for argument in arguments if argument.name}
        spent.append(tuple(sorted(touched - needed)))
        needed |= touched
    return [
        Step(operation, OPERATIONS[operation.type], _context(operation, function), names)
        for operation, names in zip(running, reversed(spent), strict=True)
    ]


def ios_of(function: Function) -> int:
    """The system that brought the operations of a function.

    Raises:
        BundleError: the version is unknown here.
    """
    if function.opset not in _SYSTEMS:
        known = ", ".join(_SYSTEMS)
        raise BundleError(f"function {function.name!r} has operations of {function.opset!r}; known are {known}")
    return _SYSTEMS[function.opset]


def held(array: Array, declared: ValueType) -> Any:
    """A constant as operations take it: a tensor (see `holder`), text, or a list of Python values."""
    if isinstance(declared, ListType):
        return array.tolist()
    assert isinstance(declared, TensorType)
    if declared.dtype == STRING:
        return array.tolist()  # of a scalar, the text itself
    wide = _WIDER.get(declared.dtype, DTYPES[declared.dtype].numpy)
    return torch.from_numpy(np.array(array, wide, order="C"))


def _refuse_unknown(function: Function) -> None:
    unknown = Counter(
        operation.type
        for operation in function.operations
        if not operation.is_constant and (operation.type not in OPERATIONS or operation.blocks)
    )
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        raise BundleError(
            f"function {function.name!r} has operations that cannot be evaluated here: {listed}; export without them"
        )


def _context(operation: Operation, function: Function) -> dict[str, Any]:
    """What the operation's function asks for; its parameters are checked on the way."""
    where = f"{operation.name!r} ({operation.type})"
    signature = inspect.signature(OPERATIONS[operation.type])
    offered = {"outputs": tuple(value.type for value in operation.outputs), "ios": ios_of(function)}
    context = {key: value for key, value in offered.items() if key in signature.parameters}
    try:
        signature.bind(**operation.inputs, **context)
    except TypeError as error:
        raise BundleError(f"{where} has parameters that do not fit: {_line(error)}; export it again") from error
    for key, arguments in operation.inputs.items():
        if not arguments or (len(arguments) > 1 and key != _SEVERAL):
            raise BundleError(f"{where} has {len(arguments)} values for {key!r}: export it again")
    for value in operation.outputs:
        if isinstance(value.type, TensorType) and value.type.dtype != STRING:
            try:
                holder(value.type.dtype)
            except KeyError:
                raise BundleError(f"{where} is declared {value.type}, a type not computed here") from None
    return context


def fits(tensor: torch.Tensor, declared: TensorType) -> bool:
    """Whether a result has the declared shape, and is of floats, integers or booleans as declared."""
    kinds = (tensor.is_floating_point(), tensor.dtype == torch.bool)
    return tuple(tensor.shape) == declared.shape and kinds == (is_float(declared.dtype), declared.dtype == "bool")


def _line(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(str(error).split())[:300]
