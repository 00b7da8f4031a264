"""What an ONNX file says: its nodes in order, its constants, its inputs and outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.checker
import onnx.inliner
import torch

from debiexport.errors import BundleError
from debiexport.evaluate.onnx.functions import check_functions
from debiexport.evaluate.onnx.ops.table import OPERATIONS
from debiexport.evaluate.onnx.text import check_names
from debiexport.evaluate.onnx.types import TensorType, check_size, held, infer, inferred, line

OPSETS = range(18, 21)
MAX_BYTES = 2**31 - 1  # of a file; the format allows no more
_DOMAINS = ("", "ai.onnx")
_CONSTANT = "Constant"
_SMALL = 1024  # elements of a constant that the inference of shapes may need to know


@dataclass(frozen=True, eq=False)
class Node:
    """An operation.

    Attributes:
        name: as the file has it, or else its first output.
        op_type: of the operations of ONNX itself.
        inputs, outputs: names; "" is one that is left out.
        attributes: numbers, text, lists of them, and tensors.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Graph:
    """A model without functions of its own.

    Attributes:
        opset: the version of the operations.
        nodes: in an order in which they can run, constants left out.
        constants: by name; see `held`.
        inputs: by name, with the axes as the file declares them: a number, or the name of the batch (it may be "").
        outputs: names.
        symbol: the name of the batch if it may be any, "" if it has none; None if all shapes are fixed.
    """

    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, torch.Tensor]
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    symbol: str | None
    _skeleton: onnx.ModelProto  # large constants left out

    def types(self, batch: int | None = None) -> dict[str, TensorType]:
        """The type of every tensor for a batch; see `infer`."""
        return infer(self._skeleton, self.symbol, batch)


def read_graph(source: str | Path | onnx.ModelProto) -> Graph:
    """A graph from a file or a model in memory, which stays as it is; its own functions are put in place.

    Raises:
        BundleError: the file is missing, damaged, too large or keeps tensors in other files; it is of another
            opset; it has operations that cannot be computed here (all are named, with their counts); or an
            input has no fixed shape, the first axis aside.
    """
    model = source if isinstance(source, onnx.ModelProto) else _load(Path(source))
    check_names(model)
    _refuse_outside(model)
    model = _inlined(model)
    opset = _opset(model)
    _refuse_unknown(model.graph)
    _refuse_sizes(model.graph)
    skeleton = _skeleton(model)
    try:
        onnx.checker.check_model(inferred(skeleton))  # an output may go without a type, as tools leave it
    except BundleError:
        raise
    except Exception as error:  # ValidationError, or what too large a model raises
        raise BundleError(f"the model is not valid ONNX: {line(error)}; export it again") from error
    constants = {tensor.name: held(tensor, tensor.name) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        read = Node(
            node.name or next(filter(None, node.output), ""),
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            {attribute.name: _attribute(attribute, node.name) for attribute in node.attribute},
        )
        if node.op_type == _CONSTANT:
            constants[node.output[0]] = _constant(read)
        else:
            nodes.append(read)
    inputs, symbol = _inputs(model.graph)
    outputs = tuple(value.name for value in model.graph.output)
    return Graph(opset, tuple(nodes), constants, inputs, outputs, symbol, skeleton)


def _load(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BundleError(f"{path.name} has {size} bytes, allowed are {MAX_BYTES}: export it again")
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check the name and its permissions") from error
    except BundleError:
        raise
    except Exception as error:  # protobuf's DecodeError has no public root
        raise BundleError(f"{path.name} is not an ONNX file: export it again") from error


def _refuse_outside(model: onnx.ModelProto) -> None:
    """Refuse tensors that lie in other files, and sparse ones."""
    for tensor in _tensors((model.graph,), [node for function in model.functions for node in function.node]):
        if isinstance(tensor, onnx.SparseTensorProto):
            raise BundleError(f"{tensor.values.name!r} is a sparse tensor: export the model without them")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise BundleError(f"the model keeps {tensor.name!r} in another file: save it as one file")


def _tensors(
    graphs: tuple[onnx.GraphProto, ...], nodes: list[onnx.NodeProto]
) -> Iterator[onnx.TensorProto | onnx.SparseTensorProto]:
    """Every tensor of graphs and nodes, those of graphs inside nodes included."""
    for graph in graphs:
        yield from (*graph.initializer, *graph.sparse_initializer)
    for node in [node for graph in graphs for node in graph.node] + nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from (*attribute.tensors, *attribute.sparse_tensors)
            inner = (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
            if inner:
                yield from _tensors(inner, [])


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    check_functions(model)
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # whatever a damaged function makes of it
        raise BundleError(f"the functions of the model cannot be put in place: {line(error)}") from error


def _opset(model: onnx.ModelProto) -> int:
    versions = {entry.version for entry in model.opset_import if entry.domain in _DOMAINS}
    if len(versions) != 1 or versions.isdisjoint(OPSETS):
        found = ", ".join(map(str, sorted(versions))) or "none"
        raise BundleError(f"the model is of opset {found}, known are {OPSETS[0]} to {OPSETS[-1]}: export it in one")
    return int(versions.pop())


def _refuse_unknown(graph: onnx.GraphProto) -> None:
    unknown = Counter(
        node.op_type if node.domain in _DOMAINS else f"{node.domain}::{node.op_type}"
        for node in graph.node
        if node.domain not in _DOMAINS or node.op_type not in (*OPERATIONS, _CONSTANT)
    )
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        raise BundleError(f"the model has operations that cannot be evaluated here: {listed}; export without them")


def _refuse_sizes(graph: onnx.GraphProto) -> None:
    """Refuse absurd shapes; of negative sizes the inference of types would end the process."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        check_size((dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")), value.name)
    for tensor in graph.initializer:
        check_size(tensor.dims, tensor.name)


def _attribute(attribute: onnx.AttributeProto, where: str) -> Any:
    try:
        value = onnx.helper.get_attribute_value(attribute)
    except ValueError as error:  # of a kind that no operation has here
        raise BundleError(
            f"{where!r} has an attribute {attribute.name!r} of an unknown kind: export it again"
        ) from error
    if isinstance(value, onnx.TensorProto):
        return held(value, f"{where}.{attribute.name}")
    if isinstance(value, list) and all(isinstance(each, bytes) for each in value):
        return [each.decode(errors="replace") for each in value] if value else []
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _constant(node: Node) -> torch.Tensor:
    """The value of a node Constant, which keeps it in one of several attributes."""
    (kind, value), *others = node.attributes.items() or [("", None)]
    if kind == "value":
        return torch.as_tensor(value)
    if others or kind not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise BundleError(f"{node.name!r} is a constant of the kind {kind!r}, unknown here: export it again")
    return torch.tensor(value, dtype=torch.float32 if "float" in kind else torch.int64)


def _inputs(graph: onnx.GraphProto) -> tuple[dict[str, tuple[int | str, ...]], str | None]:
    """The inputs that have no value of their own, and the name of the batch."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs: dict[str, tuple[int | str, ...]] = {}
    symbols: set[str] = set()
    for value in graph.input:
        if value.name in stored:
            continue
        dims = value.type.tensor_type.shape.dim
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims)
        inputs[value.name] = shape
        symbols.update(size for size in shape[:1] if isinstance(size, str))
        if any(isinstance(size, str) for size in shape[1:]) or len(symbols) > 1:
            raise BundleError(
                f"the input {value.name!r} takes several shapes: fix all axes, the batch (the first) aside"
            )
    return inputs, next(iter(symbols), None)


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large constants as inputs, which is enough to infer types."""
    graph = model.graph
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    copy = skeleton.graph
    copy.name = graph.name
    copy.node.extend(graph.node)
    copy.input.extend(graph.input)
    copy.output.extend(graph.output)
    copy.value_info.extend(graph.value_info)
    declared = {value.name for value in graph.input}
    for tensor in graph.initializer:
        size = 1
        for length in tensor.dims:
            size *= length
        if size <= _SMALL:
            copy.initializer.append(tensor)
        elif tensor.name not in declared:
            copy.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return skeleton
