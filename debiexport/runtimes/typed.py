"""A typed ONNX model on any machine: evaluated in torch as its types say, see `debiexport.evaluate.onnx`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from debiexport.errors import BundleError, MissingDependencyError
from debiexport.extras import missing
from debiexport.geometry import Geometry
from debiexport.manifest import Artifact
from debiexport.runtimes.base import Array, Arrays
from debiexport.signature import IMAGES

NEEDS = ("torch",)


class EvaluatedModel:
    """A typed model. ONNX Runtime on a CPU cannot judge it: it runs float16 in float32.

    Args:
        path: of the ONNX file.
        geometry: of the network.
        artifact: the manifest's entry of the model.
        threads: of torch; None leaves them.

    Raises:
        MissingDependencyError: torch is not installed.
        BundleError: the file is damaged, is not what the manifest says, or has operations that cannot be computed.
    """

    def __init__(self, path: Path, geometry: Geometry, artifact: Artifact, threads: int | None = None) -> None:
        if missing(NEEDS):
            raise MissingDependencyError(
                "a typed model is evaluated with torch, which is not installed here:"
                " pip install 'debiexport[export]' (in a checkout '.[export]')"
            )
        from debiexport.evaluate.onnx.evaluator import OnnxEvaluator

        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self._outputs = tuple(geometry.output_shapes)
        self._evaluator = OnnxEvaluator(path)
        self._batch = artifact.batch
        found = {name: (self._evaluator.batch, *shape[1:]) for name, shape in self._evaluator.inputs.items()}
        wanted = {spec.name: spec.shape for spec in artifact.inputs}
        if found != wanted or not set(self._outputs) <= set(self._evaluator.outputs):
            raise BundleError(f"{path} is not the network of the manifest: its inputs or outputs differ; export again")

    @property
    def batch(self) -> int | None:
        """The only batch it takes, or None if it takes any."""
        return self._batch

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """See `Runtime.run`."""
        return self._evaluator.run({IMAGES: inputs[IMAGES]}, tuple(taps))

    def first_not_finite(self, inputs: Mapping[str, Array]) -> tuple[str, str] | None:
        """Node and tensor where an infinity or NaN first appears; see `OnnxEvaluator.first_not_finite`."""
        return self._evaluator.first_not_finite({IMAGES: inputs[IMAGES]})
