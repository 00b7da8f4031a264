"""The nodes of a graph, made ready to run one after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from debiexport.errors import BundleError
from debiexport.evaluate.onnx.graph import Graph, Node
from debiexport.evaluate.onnx.ops.table import OPERATIONS
from debiexport.evaluate.onnx.types import TensorType, holder, line, rounded

# TypeError and AttributeError: an attribute of another type, or an input that is left out where one has to be.
_FAILURES = (ValueError, IndexError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError)


@dataclass(frozen=True, eq=False)
class Step:
    """One node.

    Attributes:
        node: as the graph has it.
        compute: the function that computes it; see `ops`.
        context: what the function asks for beside its inputs and attributes, but for the types.
        wants_types: whether it asks for the types of its results.
        spent: names of the tensors that nothing needs after it.
    """

    node: Node
    compute: Callable[..., Any]
    context: Mapping[str, Any]
    wants_types: bool
    spent: tuple[str, ...]

    def run(
        self, values: Mapping[str, torch.Tensor], types: Mapping[str, TensorType], *, keep_float32: bool
    ) -> dict[str, torch.Tensor]:
        """The results by name, each rounded to its declared type.

        Args:
            values: by name.
            types: of all tensors.
            keep_float32: round no float.

        Raises:
            BundleError: the arguments do not fit each other, or a result is not as declared.
        """
        node = self.node
        inputs = [values[name] if name else None for name in node.inputs]
        declared = tuple(types[name] if name else None for name in node.outputs)
        extra = {"outputs": declared} if self.wants_types else {}
        try:
            results = self.compute(*inputs, **node.attributes, **self.context, **extra)
        except _FAILURES as error:
            raise BundleError(f"{self} cannot be computed: {line(error)}; export it again") from error
        results = results if isinstance(results, tuple) else (results,)
        if len(results) < len(node.outputs):
            raise BundleError(f"{self} gives {len(results)} results, declared are {len(node.outputs)}: export it again")
        named = zip(node.outputs, declared, results, strict=False)
        return {
            name: self._checked(name, result, wanted, keep_float32)
            for name, wanted, result in named
            if wanted is not None
        }

    def _checked(self, name: str, result: torch.Tensor, declared: TensorType, keep_float32: bool) -> torch.Tensor:
        kinds = (result.is_floating_point(), result.dtype == torch.bool)
        if kinds != (declared.is_float, declared.dtype == "bool") or not declared.admits(result.shape):
            found = f"{str(result.dtype).removeprefix('torch.')}{list(result.shape)}"
            raise BundleError(
                f"{self} gives {found} where {name!r} is declared {declared}: the model is damaged, export it again"
            )
        return (
            result.to(holder(declared.dtype)) if keep_float32 and declared.is_float else rounded(result, declared.dtype)
        )

    def __str__(self) -> str:
        return f"{self.node.name!r} ({self.node.op_type})"


def prepare(graph: Graph) -> list[Step]:
    """The steps of a graph.

    Raises:
        BundleError: a node has inputs or attributes that its kind does not know here.
    """
    needed = set(graph.outputs)
    spent: list[tuple[str, ...]] = []
    for node in reversed(graph.nodes):
        touched = {name for name in (*node.inputs, *node.outputs) if name}
        spent.append(tuple(sorted(touched - needed)))
        needed |= touched
    return [_step(node, graph, names) for node, names in zip(graph.nodes, reversed(spent), strict=True)]


def _step(node: Node, graph: Graph, spent: tuple[str, ...]) -> Step:
    compute = OPERATIONS[node.op_type]
    signature = inspect.signature(compute)
    context = {"opset": graph.opset} if "opset" in signature.parameters else {}
    wants_types = "outputs" in signature.parameters
    try:
        signature.bind(*node.inputs, **node.attributes, **context, **({"outputs": ()} if wants_types else {}))
    except TypeError as error:
        raise BundleError(
            f"{node.name!r} ({node.op_type}) has inputs or attributes that are unknown here: {line(error)};"
            " export without them"
        ) from error
    return Step(node, compute, context, wants_types, spent)
