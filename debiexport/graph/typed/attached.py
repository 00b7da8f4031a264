"""Pass: what graph-surgeon drops, put back: who made the model, its properties, its functions, its types."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Attached:
    """What hangs on a model beside its graph.

    Attributes:
        model: the same model without its graph.
        graph: the graph's name and documentation, without nodes or tensors.
        nodes: metadata of each node that has any, by the node's name.
    """

    model: onnx.ModelProto
    graph: onnx.GraphProto
    nodes: dict[str, dict[str, str]]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Attached:
        """Of a model, which is not changed."""
        shell, graph = onnx.ModelProto(), onnx.GraphProto(name=model.graph.name, doc_string=model.graph.doc_string)
        for field, value in model.ListFields():
            if field.name == "graph":
                continue
            if field.is_repeated:
                getattr(shell, field.name).extend(value)
            else:
                setattr(shell, field.name, value)
        graph.metadata_props.extend(model.graph.metadata_props)
        nodes = {n.name: {p.key: p.value for p in n.metadata_props} for n in model.graph.node if n.metadata_props}
        return cls(shell, graph, nodes)

    def restored(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A model that graph-surgeon wrote, with what it dropped, and the type of every tensor inferred anew."""
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        result.graph.CopyFrom(model.graph)  # the functions are those of the model before: they take any type
        result.graph.name, result.graph.doc_string = self.graph.name, self.graph.doc_string
        del result.graph.metadata_props[:], result.graph.value_info[:]
        result.graph.metadata_props.extend(self.graph.metadata_props)
        for node in result.graph.node:
            for key, value in self.nodes.get(node.name, {}).items():
                node.metadata_props.add(key=key, value=value)
        return onnx.shape_inference.infer_shapes(result, strict_mode=True, data_prop=True)
