"""Cutting a stretch out of an ONNX model: from tensors that are given to tensors that are wanted.

The stretch is a model of its own. It holds the nodes that the wanted tensors need, in their old order; the
given tensors that these read are its inputs, and every output of every node is one of its outputs. Where a
node of the stretch also computes a given tensor, as a top-k computes the routes that are forced on what
follows it, its own result is kept under another name, see `computed`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

import onnx

from debiexport.errors import BundleError

_COMPUTED = ".computed"


def computed(name: str) -> str:
    """The name of what a stretch itself computes of a tensor that it is given."""
    return f"{name}{_COMPUTED}"


def original(name: str) -> str:
    """The name in the whole model of a tensor of a stretch; undoes `computed`."""
    return name.removesuffix(_COMPUTED)


def cut(model: onnx.ModelProto, sources: Collection[str], targets: Collection[str]) -> onnx.ModelProto:
    """The stretch from `sources` to `targets`; the model stays as it is.

    Args:
        model: topologically ordered, as ONNX demands.
        sources: tensors that may be given. Those that the stretch reads become its inputs, in the order in which
            they are met from the targets; the model's own inputs need not be named.
        targets: tensors to compute, each the output of a node. One that is a source too is computed and given.

    Returns:
        A model whose inputs are typed and whose outputs are not: a runtime infers them.

    Raises:
        BundleError: the model computes no tensor of a target's name, or the type of an input cannot be known.
    """
    graph = model.graph
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    given = dict.fromkeys([*sources, *(v.name for v in graph.input if v.name not in stored)])
    for name in targets:
        if name not in makers:
            raise BundleError(f"the model computes no tensor {name!r}")

    wanted: set[int] = set()
    inputs: dict[str, None] = {}
    constants: set[str] = set()
    pending = [makers[name] for name in targets]
    while pending:
        i = pending.pop()
        if i in wanted:
            continue
        wanted.add(i)
        for name in _reads(graph.node[i]):
            if name in given:
                inputs[name] = None
            elif name in stored:
                constants.add(name)
            elif name in makers:  # a name inside a subgraph may be the subgraph's own
                pending.append(makers[name])

    stretch = onnx.ModelProto(ir_version=model.ir_version)
    stretch.opset_import.extend(model.opset_import)
    stretch.functions.extend(model.functions)
    stretch.graph.name = graph.name
    stretch.graph.node.extend(graph.node[i] for i in sorted(wanted))
    stretch.graph.initializer.extend(t for t in graph.initializer if t.name in constants)
    stretch.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in constants)
    for name, kind in _types(model, inputs).items():
        stretch.graph.input.append(onnx.ValueInfoProto(name=name, type=kind))
    for node in stretch.graph.node:
        for j, name in enumerate(node.output):
            if name in given:
                node.output[j] = computed(name)
        stretch.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    return stretch


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, those that only its subgraphs read included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (value.name for value in graph.output)


def _types(model: onnx.ModelProto, names: Collection[str]) -> dict[str, onnx.TypeProto]:
    """The type of each tensor: as the model declares it, or else as ONNX infers it."""

    def declared(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
        values = (*graph.value_info, *graph.output, *graph.input)
        return {value.name: value.type for value in values if value.type.tensor_type.elem_type}

    known = declared(model.graph)
    if not known.keys() >= set(names):
        with suppress(onnx.shape_inference.InferenceError):
            known = declared(onnx.shape_inference.infer_shapes(model).graph) | known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BundleError(f"the model does not say of which type {unknown[0]!r} is, and ONNX cannot infer it")
    return {name: known[name] for name in names}
