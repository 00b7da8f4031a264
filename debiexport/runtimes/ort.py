"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from debiexport.errors import BundleError
from debiexport.runtimes.base import Array, Arrays


class OrtRuntime:
    """An ONNX file in ONNX Runtime on the CPU.

    Args:
        path: the model; its hash is the caller's business.
        threads: intra-op threads; None lets ONNX Runtime choose.

    Raises:
        BundleError: ONNX Runtime refuses the file, or the file points to data outside itself.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self._threads = path, threads
        self._tapped: dict[tuple[str, ...], ort.InferenceSession] = {}
        self._session = self._open(str(path))
        self.inputs = {value.name: tuple(value.shape) for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    @property
    def batch(self) -> int | None:
        """The only batch it takes, or None if it takes any."""
        first = next(iter(self.inputs.values()))[0]
        return first if isinstance(first, int) else None

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """See `Runtime.run`."""
        session = self._session if not taps else self._with_taps(tuple(taps))
        names = [*self.outputs, *taps]
        try:
            results = session.run(names, dict(inputs))
        except Exception as error:  # see _open
            text = " ".join(str(error).split())[:300]
            raise BundleError(f"{self.path.name} cannot be run by ONNX Runtime: {text}; export it again") from error
        return dict(zip(names, results, strict=True))

    def _open(self, model: str | bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types without a common root
            text = " ".join(str(error).split())[:300]
            raise BundleError(f"{self.path.name} cannot be loaded by ONNX Runtime: {text}; export it again") from error

    def _with_taps(self, taps: tuple[str, ...]) -> ort.InferenceSession:
        """A second session whose graph has the taps as outputs; the file stays as it is."""
        if taps not in self._tapped:
            model = onnx.load(str(self.path), load_external_data=False)
            types = {value.name: value for value in model.graph.value_info}
            for tap in taps:
                if tap in self.outputs:
                    continue
                if tap not in types:
                    raise BundleError(f"{self.path.name} has no tensor {tap!r}: it was not exported by debiexport")
                model.graph.output.append(types[tap])
            self._tapped[taps] = self._open(model.SerializeToString())
        return self._tapped[taps]


def refuse_external_data(path: Path) -> None:
    """Refuse an ONNX file that keeps tensors in other files, wherever they lie.

    Raises:
        BundleError: it does, or it is no ONNX file.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise BundleError(f"{path.name} is not an ONNX file: export it again") from error
    for tensor in _tensors(model.graph, [node for function in model.functions for node in function.node]):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise BundleError(f"{path.name} keeps {tensor.name!r} in another file; a bundle's model is one file")


def _tensors(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto] = ()) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph: initializers, and those in attributes and subgraphs of its nodes and of `nodes`."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in (*graph.node, *nodes):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _tensors(inner)
