"""A Core ML package on any machine: evaluated in torch from the saved files, see `debiexport.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from debiexport.errors import BundleError, MissingDependencyError
from debiexport.extras import missing
from debiexport.geometry import Geometry
from debiexport.manifest import Artifact
from debiexport.runtimes.base import Array, Arrays
from debiexport.signature import IMAGES
from debiexport.targets.coreml.identifiers import identifier

if TYPE_CHECKING:
    from debiexport.evaluate.program import Program

NEEDS = ("torch", "coremltools")


class EvaluatedPackage:
    """A function of a package.

    Args:
        package: the folder `model.mlpackage`; its hashes are the caller's business.
        geometry: of the network.
        artifact: the manifest's entry of the model, which names the function and its batch.
        threads: of torch; None leaves them.
        keep_float32: see `Evaluator`.

    Raises:
        MissingDependencyError: torch or coremltools are not installed, or coremltools does not go with numpy.
        BundleError: the package is damaged, is not what the manifest says, or has operations that cannot be computed.
    """

    def __init__(
        self,
        package: Path,
        geometry: Geometry,
        artifact: Artifact,
        threads: int | None = None,
        *,
        keep_float32: bool = False,
    ) -> None:
        require_evaluation()
        from debiexport.evaluate.evaluator import Evaluator

        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self._package, self._outputs = package, tuple(geometry.output_shapes)
        self._evaluator = Evaluator(read_saved(package, artifact.sha256), artifact.function, keep_float32=keep_float32)
        found = self._evaluator.inputs
        wanted = {spec.name: spec.shape for spec in artifact.inputs}
        if found != wanted:
            raise BundleError(f"{package} takes {found}, the manifest says {wanted}: export again")

    @property
    def batch(self) -> int | None:
        """The only batch that the function takes."""
        return self._evaluator.batch

    def run(self, inputs: Mapping[str, Array], taps: Sequence[str] = ()) -> Arrays:
        """See `Runtime.run`; logits are given as such, also where the package is a classifier."""
        names = {identifier(name): name for name in (*self._outputs, *taps)}
        results = self._evaluator.run({IMAGES: inputs[IMAGES]}, tuple(names))
        return {stable: results[name] for name, stable in names.items()}


@lru_cache(maxsize=2)
def read_saved(package: Path, sha256: str) -> Program:
    """A package's program, read once for all its functions; the hash is the model file's."""
    from debiexport.evaluate.package import open_package
    from debiexport.evaluate.program import read_program

    return read_program(open_package(package))


def require_evaluation() -> None:
    """Refuse to go on where packages cannot be evaluated.

    Raises:
        MissingDependencyError: see `EvaluatedPackage`.
    """
    absent = missing(NEEDS)
    if absent:
        raise MissingDependencyError(
            f"a Core ML package is evaluated with {' and '.join(NEEDS)}; {', '.join(absent)} not installed here:"
            " pip install 'debiexport[coreml]' (in a checkout '.[coreml]')"
        )
    check_numpy()


def check_numpy() -> None:
    """Refuse a numpy that coremltools 9 cannot work with.

    Raises:
        MissingDependencyError: it is 2.4 or newer.
    """
    import numpy as np

    if tuple(int(part) for part in np.__version__.split(".")[:2]) >= (2, 4):
        raise MissingDependencyError(
            f"coremltools 9 does not work with numpy {np.__version__}: pip install 'numpy<2.4'"
        )
