"""Several batches as functions of one package, whose equal weights are stored once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from debiexport.targets.coreml.identifiers import function_name
from debiexport.targets.coreml.package import WEIGHTS_FILE
from debiexport.targets.coreml.quiet import quiet_coremltools


@contextmanager
def merged(models: Mapping[int, Any]) -> Iterator[tuple[Any, Path]]:
    """The specification and the weight file of one package for all models, while the block runs.

    Args:
        models: coremltools' MLModels by batch; one alone stays as it is, with the function `main`.
    """
    if len(models) == 1:
        (model,) = models.values()
        yield model.get_spec(), Path(model.weights_dir) / "weight.bin"
        return
    with TemporaryDirectory(prefix="debiexport-") as folder:
        with quiet_coremltools():
            from coremltools.models import MLModel
            from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction

            functions = MultiFunctionDescriptor()
            for batch, model in models.items():
                path = Path(folder) / f"{function_name(batch)}.mlpackage"
                model.save(str(path))
                functions.add_function(str(path), "main", function_name(batch))
            functions.default_function_name = function_name(next(iter(models)))
            together = Path(folder) / "together.mlpackage"
            save_multifunction(functions, str(together))
            spec = MLModel(str(together), skip_model_load=True).get_spec()
        yield spec, together / WEIGHTS_FILE
