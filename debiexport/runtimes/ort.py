"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from debiexport.errors import BundleError, MissingDependencyError, UsageError
from debiexport.runtimes.base import Array, Arrays
from debiexport.runtimes.session import SessionOptions

CPU, CUDA = "cpu", "cuda"
PROVIDERS = {CPU: "CPUExecutionProvider", CUDA: "CUDAExecutionProvider"}
# float32 means float32: by default convolutions and products on a GPU round their inputs to 10 bits.
_PROVIDER_OPTIONS = {CPU: {}, CUDA: {"use_tf32": "0"}}
_INSTALL_CUDA = "pip uninstall --yes onnxruntime && pip install onnxruntime-gpu"


class OrtRuntime:
    """An ONNX file in ONNX Runtime.

    Args:
        path: the model; its hash is the caller's business.
        threads: intra-op threads; None lets ONNX Runtime choose.
        provider: "cpu" or "cuda"; never silently another than asked for.
        session: options of the session; without them ONNX Runtime's defaults.
        profile_prefix: write a profile of every run to a file whose name begins so; see `end_profile`.

    Raises:
        BundleError: ONNX Runtime refuses the file, or the file points to data outside itself.
        UsageError: no such provider.
        MissingDependencyError: the provider is not in this ONNX Runtime, or does not work here.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        provider: str = CPU,
        *,
        session: SessionOptions | None = None,
        profile_prefix: Path | None = None,
    ) -> None:
        check_provider(provider)
        self.path, self._threads, self._provider = path, threads, provider
        self._options, self._profile_prefix = session or SessionOptions(), profile_prefix
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
            raise BundleError(
                f"{self.path.name} cannot be run by ONNX Runtime: {_line(error)}; export it again"
            ) from error
        return dict(zip(names, results, strict=True))

    @property
    def options(self) -> dict[str, object]:
        """What the session was opened with; the rest are ONNX Runtime's defaults."""
        provider = {"provider": self._session.get_providers()[0], **_PROVIDER_OPTIONS[self._provider]}
        return {**provider, "intra_op_num_threads": self._threads or "default", **self._options.to_dict()}

    def end_profile(self) -> Path:
        """Stop profiling and return the file."""
        return Path(self._session.end_profiling())

    def _open(self, model: str | bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._options.apply(options)
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if self._profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._profile_prefix)
        wanted = PROVIDERS[self._provider]
        try:
            session = ort.InferenceSession(model, options, providers=[(wanted, _PROVIDER_OPTIONS[self._provider])])
        except Exception as error:  # onnxruntime raises a dozen types without a common root
            raise BundleError(
                f"{self.path.name} cannot be loaded by ONNX Runtime: {_line(error)}; export it again"
            ) from error
        if session.get_providers()[0] != wanted:  # ONNX Runtime falls back to the CPU without an error
            raise MissingDependencyError(
                f"{wanted} does not work here, ONNX Runtime fell back to {session.get_providers()[0]}: look for the"
                " driver with nvidia-smi, and install the CUDA and cuDNN that this onnxruntime-gpu was built for"
            )
        return session

    def _with_taps(self, taps: tuple[str, ...]) -> ort.InferenceSession:
        """A second session whose graph has the taps as outputs; the file stays as it is."""
        if taps not in self._tapped:
            model = onnx.load(str(self.path), load_external_data=False)
            made = {name for node in model.graph.node for name in node.output}
            types = {value.name: value for value in model.graph.value_info}
            for tap in taps:
                if tap in self.outputs:
                    continue
                if tap not in made:
                    raise BundleError(f"{self.path.name} has no tensor {tap!r}: it was not exported by debiexport")
                # Without a type, as tools may leave a tensor, ONNX Runtime infers it.
                model.graph.output.append(types.get(tap, onnx.ValueInfoProto(name=tap)))
            self._tapped[taps] = self._open(model.SerializeToString())
        return self._tapped[taps]


class OrtGraph:
    """A model in memory that is run as it is written: no operation is fused, moved or replaced.

    Args:
        model: of any inputs and outputs.
        name: what a message calls it.
        threads, provider: see `OrtRuntime`.

    Raises:
        BundleError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, name: str, threads: int | None = None, provider: str = CPU) -> None:
        check_provider(provider)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        chosen = [(PROVIDERS[provider], _PROVIDER_OPTIONS[provider])]
        self.name = name
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=chosen)
        except Exception as error:  # see OrtRuntime
            raise BundleError(f"{name} cannot be loaded by ONNX Runtime: {_line(error)}; export it again") from error

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Every output by name.

        Args:
            inputs: by name; those that the graph does not read are left out.

        Raises:
            BundleError: ONNX Runtime cannot run it.
        """
        wanted = {value.name for value in self._session.get_inputs()}
        names = [value.name for value in self._session.get_outputs()]
        try:
            results = self._session.run(names, {name: array for name, array in inputs.items() if name in wanted})
        except Exception as error:
            raise BundleError(f"{self.name} cannot be run by ONNX Runtime: {_line(error)}; export it again") from error
        return dict(zip(names, results, strict=True))


def _line(error: Exception) -> str:
    """ONNX Runtime's words in one line."""
    return " ".join(str(error).split())[:300]


def check_provider(provider: str) -> None:
    """Refuse a provider that is unknown or not in this ONNX Runtime; see `OrtRuntime`."""
    if provider not in PROVIDERS:
        raise UsageError(f"--provider is {provider!r}: give {' or '.join(PROVIDERS)}")
    available = ort.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise MissingDependencyError(
            f"this ONNX Runtime has no {PROVIDERS[provider]}, only {', '.join(available)}; run: {_INSTALL_CUDA}"
        )


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
