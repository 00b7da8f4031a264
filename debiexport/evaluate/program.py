"""What the program of a package says, as plain data; nothing is computed and torch is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from debiexport.errors import BundleError, UsageError
from debiexport.evaluate.decompress import DECOMPRESSORS
from debiexport.evaluate.description import Description, read_description
from debiexport.evaluate.package import Package
from debiexport.evaluate.protos import parse_model
from debiexport.evaluate.values import (
    Constant,
    DictionaryType,
    ListType,
    TensorType,
    ValueType,
    read_constant,
    read_type,
)
from debiexport.runtimes.base import Array

__all__ = [
    "Argument",
    "Constant",
    "DictionaryType",
    "Function",
    "ListType",
    "Operation",
    "Program",
    "TensorType",
    "Value",
    "ValueType",
    "read_program",
]

CONST, CONSTEXPR = "const", "constexpr_"


@dataclass(frozen=True)
class Value:
    """A named value: an input of a function or an output of an operation."""

    name: str
    type: ValueType


@dataclass(frozen=True, eq=False)
class Argument:
    """What an operation takes: a value by name, or a constant written in place; one of them is None."""

    name: str | None = None
    constant: Constant | None = None


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation.

    Attributes:
        type: such as "conv".
        name: for messages; its outputs have names of their own.
        inputs: arguments by parameter; some parameters, as that of concat, take several. What a compressed
            constant keeps in attributes is here too.
        outputs: in the order of the format; none, one or several.
        attributes: constants other than the name; a const has its value in "val".
        blocks: number of nested programs (of loops and branches), which are not read.
    """

    type: str
    name: str
    inputs: dict[str, tuple[Argument, ...]]
    outputs: tuple[Value, ...]
    attributes: dict[str, Constant]
    blocks: int = 0

    @property
    def is_constant(self) -> bool:
        """Whether its outputs are known before any run: constants, compressed or not."""
        return self.type == CONST or self.type.startswith(CONSTEXPR)


@dataclass(frozen=True, eq=False)
class Function:
    """A function: operations in the order in which they run.

    Attributes:
        name: of the function.
        opset: the operations' version, such as "CoreML7" (iOS 17).
        inputs: its arguments, tensors all.
        operations: constants included.
        outputs: names of the values that it returns.
        description: how an app sees it.
    """

    name: str
    opset: str
    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]
    description: Description

    @cached_property
    def producers(self) -> dict[str, Operation]:
        """The operation behind every value but the inputs."""
        return {value.name: operation for operation in self.operations for value in operation.outputs}

    @cached_property
    def types(self) -> dict[str, ValueType]:
        """The declared type of every value."""
        made = (value for operation in self.operations for value in operation.outputs)
        return {value.name: value.type for value in (*self.inputs, *made)}

    def type_of(self, argument: Argument) -> ValueType:
        """The declared type of what an operation takes."""
        if argument.constant is not None:
            return argument.constant.type
        assert argument.name is not None
        return self.types[argument.name]

    def is_constant(self, argument: Argument) -> bool:
        """Whether what an operation takes is known before any run."""
        producer = self.producers.get(argument.name) if argument.name is not None else None
        return argument.constant is not None or (producer is not None and producer.is_constant)

    def value_of(self, argument: Argument) -> Array:
        """The value of an argument that is a constant; compressed ones are decompressed, anew at every call.

        Half a byte and other small integers come one a byte; a list comes as one dimension.

        Raises:
            BundleError: the weights are damaged, or a compressed constant is not as its kind demands.
            UsageError: the argument is no constant.
        """
        if argument.constant is not None:
            return argument.constant.array()
        assert argument.name is not None
        return self.constant(argument.name)

    def constant(self, name: str) -> Array:
        """The value of a constant by its name; see `value_of`."""
        operation = self.producers.get(name)
        if operation is None or not operation.is_constant:
            raise UsageError(f"{name!r} is not a constant of the function {self.name!r}: name one that is")
        if operation.type == CONST:
            return operation.attributes["val"].array()
        index = [value.name for value in operation.outputs].index(name)
        return self._decompress(operation)[index]

    def _decompress(self, operation: Operation) -> tuple[Array, ...]:
        decompress = DECOMPRESSORS.get(operation.type)
        if decompress is None:
            raise BundleError(f"{operation.name!r} is {operation.type}, a compression unknown here: choose another one")
        try:
            results = decompress(**{key: self.value_of(argument) for key, (argument,) in operation.inputs.items()})
        except (TypeError, ValueError, IndexError, AttributeError) as error:  # parameters missing, unknown, unfit
            raise BundleError(
                f"{operation.name!r} ({operation.type}) does not fit its data: export it again"
            ) from error
        if len(results) != len(operation.outputs):
            raise BundleError(f"{operation.name!r} ({operation.type}) gives {len(results)} results: export it again")
        for array, value in zip(results, operation.outputs, strict=True):
            declared = value.type
            if not isinstance(declared, TensorType) or (array.dtype, array.shape) != (declared.numpy, declared.shape):
                raise BundleError(
                    f"{operation.name!r} ({operation.type}) gives {array.dtype}{list(array.shape)}, declared is"
                    f" {declared}: export it again"
                )
        return results


@dataclass(frozen=True, eq=False)
class Program:
    """The program of a package.

    Attributes:
        functions: by name.
        default_function: the name of the one that runs if none is asked for.
        spec_version: of the file format.
    """

    functions: dict[str, Function]
    default_function: str
    spec_version: int

    def function(self, name: str | None = None) -> Function:
        """A function by name, or the default one.

        Raises:
            UsageError: there is none of that name.
        """
        wanted = self.default_function if name is None else name
        if wanted not in self.functions:
            raise UsageError(
                f"the program has no function {wanted!r}: give one of {', '.join(map(repr, self.functions))}"
            )
        return self.functions[wanted]


def read_program(package: Package) -> Program:
    """Read the program of a package; large constants stay in their files until they are asked for.

    Raises:
        BundleError: not a model, not an ML Program, a shape that is not fixed, a state, a value used before it
            is made, or a file of weights that is missing.
    """
    model = parse_model(package.read_model(), str(package.model))
    kind = model.WhichOneof("Type")
    if kind != "mlProgram":
        raise BundleError(f"{package.path} holds {kind or 'no model'}, not an ML Program: export it as an ML Program")
    about = model.description
    descriptions = {entry.name: read_description(entry) for entry in about.functions}
    default = about.defaultFunctionName or ("main" if not descriptions else next(iter(descriptions)))
    if not descriptions:
        descriptions = {default: read_description(about)}
    functions = {}
    for name in sorted(model.mlProgram.functions):
        if name not in descriptions:
            raise BundleError(f"{package.path} does not describe its function {name!r}: export it again")
        functions[name] = _function(name, model.mlProgram.functions[name], descriptions[name], package)
    if default not in functions:
        raise BundleError(f"{package.path} has no function {default!r}: it is incomplete, export it again")
    return Program(functions, default, model.specificationVersion)


def _function(name: str, message: Any, description: Description, package: Package) -> Function:
    if message.opset not in message.block_specializations:
        raise BundleError(f"{package.path}: function {name!r} has no code for its {message.opset!r}: export it again")
    block = message.block_specializations[message.opset]
    function = Function(
        name,
        message.opset,
        tuple(Value(value.name, read_type(value.type, value.name)) for value in message.inputs),
        tuple(_operation(operation, package) for operation in block.operations),
        tuple(block.outputs),
        description,
    )
    _check_order(function)
    return function


def _operation(message: Any, package: Package) -> Operation:
    if not message.type.isidentifier():
        raise BundleError(f"{package.path} has an operation of the type {message.type!r}: the model is damaged")
    attributes = {
        key: read_constant(value, package, f"{message.type} {key}") for key, value in sorted(message.attributes.items())
    }
    outputs = tuple(Value(value.name, read_type(value.type, value.name)) for value in message.outputs)
    label = attributes.pop("name", None)
    name = str(label.array()) if label is not None else outputs[0].name if outputs else message.type
    inputs = {key: tuple(_arguments(argument, package, key)) for key, argument in sorted(message.inputs.items())}
    if message.type.startswith(CONSTEXPR):
        inputs |= {key: (Argument(constant=constant),) for key, constant in attributes.items()}
    if message.type == CONST and (
        "val" not in attributes or [value.type for value in outputs] != [attributes["val"].type]
    ):
        raise BundleError(f"the constant {name!r} has no value of its type: the model is damaged, export it again")
    return Operation(message.type, name, inputs, outputs, attributes, len(message.blocks))


def _arguments(message: Any, package: Package, name: str) -> Iterator[Argument]:
    for binding in message.arguments:
        if binding.WhichOneof("binding") == "value":
            yield Argument(constant=read_constant(binding.value, package, name))
        else:
            yield Argument(name=binding.name)


def _check_order(function: Function) -> None:
    """Refuse a value that is used before it is made, or made twice, and a compressed constant of no constants."""
    known = {value.name: False for value in function.inputs}
    for operation in function.operations:
        for argument in (argument for arguments in operation.inputs.values() for argument in arguments):
            if argument.name is not None and argument.name not in known:
                raise BundleError(
                    f"{operation.name!r} ({operation.type}) takes {argument.name!r} before it is made: export it again"
                )
            if argument.name is not None and operation.is_constant and not known[argument.name]:
                raise BundleError(f"{operation.name!r} ({operation.type}) is made of a variable: export it again")
        for value in operation.outputs:
            if value.name in known:
                raise BundleError(f"{value.name!r} is made twice in function {function.name!r}: export it again")
            known[value.name] = operation.is_constant
    missing = [name for name in function.outputs if name not in known]
    if missing:
        raise BundleError(f"function {function.name!r} makes no {missing[0]!r}, its output: export it again")
