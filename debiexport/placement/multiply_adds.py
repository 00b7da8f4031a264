"""The multiply-adds of an operation, from the shapes that a program declares.

Products with padding count, additions of a bias do not. What is no product of matrices (norms, activations,
pooling, element by element) counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from debiexport.errors import BundleError
from debiexport.evaluate.program import Argument, Function, Operation, TensorType

Shape = tuple[int, ...]


def multiply_adds(function: Function, operation: Operation) -> int:
    """How often an operation multiplies and adds in one run.

    Args:
        function: that the operation belongs to.
        operation: any; conv, conv_transpose, linear, matmul, einsum and scaled_dot_product_attention count.

    Raises:
        BundleError: an argument is missing, or does not have the dimensions that the operation needs.
    """
    count = _COUNTS.get(operation.type)
    return 0 if count is None else count(function, operation)


def _conv(function: Function, operation: Operation) -> int:
    # Weights (outputs, inputs / groups, *kernel): every number of the result is a sum over all but the first axis.
    return prod(_result(operation)) * prod(_shape(function, operation, "weight", 3)[1:])


def _conv_transpose(function: Function, operation: Operation) -> int:
    # Weights (inputs, outputs / groups, *kernel): every number that goes in is spread over all but the first axis.
    return prod(_shape(function, operation, "x", 3)) * prod(_shape(function, operation, "weight", 3)[1:])


def _linear(function: Function, operation: Operation) -> int:
    return prod(_result(operation)) * _shape(function, operation, "weight", 2)[-1]


def _matmul(function: Function, operation: Operation) -> int:
    x = _shape(function, operation, "x", 1)
    transposed = len(x) > 1 and _flag(function, operation, "transpose_x")
    return prod(_result(operation)) * x[-2 if transposed else -1]


def _einsum(function: Function, operation: Operation) -> int:
    """The product of the sizes of all letters; where a size is 1 for one of two arguments, it is broadcast."""
    equation = str(function.value_of(_argument(operation, "equation")))
    terms = equation.partition("->")[0].split(",")
    shapes = [_shape_of(function, operation, value) for value in operation.inputs.get("values", ())]
    if [len(term) for term in terms] != [len(shape) for shape in shapes]:
        raise _unfit(operation, f"its equation {equation!r} does not fit {[list(shape) for shape in shapes]}")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return prod(sizes.values())


def _attention(function: Function, operation: Operation) -> int:
    """Queries (..., L, E), keys (..., S, E), values (..., S, V): L S (E + V) for each of the batch."""
    query = _shape(function, operation, "query", 2)
    keys, width = _shape(function, operation, "value", 2)[-2:]
    return prod(_result(operation)[:-2]) * query[-2] * keys * (query[-1] + width)


_COUNTS: dict[str, Callable[[Function, Operation], int]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}


def _argument(operation: Operation, key: str) -> Argument:
    given = operation.inputs.get(key, ())
    if len(given) != 1:
        raise _unfit(operation, f"it has {len(given)} arguments {key!r}, not one")
    return given[0]


def _shape(function: Function, operation: Operation, key: str, rank: int) -> Shape:
    """Shape of an argument of at least `rank` dimensions."""
    shape = _shape_of(function, operation, _argument(operation, key))
    if len(shape) < rank:
        raise _unfit(operation, f"{key!r} has the shape {list(shape)}, needed are {rank} dimensions or more")
    return shape


def _shape_of(function: Function, operation: Operation, argument: Argument) -> Shape:
    declared = function.type_of(argument)
    if not isinstance(declared, TensorType):
        raise _unfit(operation, "it takes something else than tensors")
    return declared.shape


def _result(operation: Operation) -> Shape:
    if not operation.outputs or not isinstance(operation.outputs[0].type, TensorType):
        raise _unfit(operation, "it gives no tensor")
    return operation.outputs[0].type.shape


def _flag(function: Function, operation: Operation, key: str) -> bool:
    return key in operation.inputs and bool(function.value_of(_argument(operation, key)))


def _unfit(operation: Operation, why: str) -> BundleError:
    return BundleError(f"{operation.name!r} ({operation.type}) is damaged, {why}: export it again")
