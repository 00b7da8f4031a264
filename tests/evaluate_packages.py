"""Small packages, written by coremltools' own builder, that the tests of debiexport.evaluate read."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debiexport.evaluate.evaluator import Evaluator
from debiexport.evaluate.package import open_package
from debiexport.evaluate.program import Program, read_program

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")


@contextmanager
def quiet() -> Iterator[None]:
    """coremltools' remarks on versions, and its progress bars, kept to itself."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


with quiet():
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types


def save(
    path: Path,
    build: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]] = ((1,),),
    *,
    target: Any = None,
    dtype: str = "fp32",
    as_written: bool = True,
    **options: Any,
) -> Path:
    """Write a package of one function.

    Args:
        path: ends in .mlpackage.
        build: calls the builder; its parameters name the inputs.
        shapes: of the inputs.
        target: the system; iOS 17 unless told otherwise.
        dtype: of the inputs, "fp16" or "fp32"; nothing is converted to another precision.
        as_written: run none of coremltools' passes.
        options: of its converter.
    """
    target = target or ct.target.iOS17
    with quiet():
        specs = [mb.TensorSpec(shape, getattr(types, dtype)) for shape in shapes]
        program = mb.program(input_specs=specs, opset_version=target)(build)
        if as_written:
            options["pass_pipeline"] = ct.PassPipeline.EMPTY
        else:
            options.setdefault("compute_precision", ct.precision.FLOAT32)
        model = ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True, **options
        )
        model.save(str(path))
    return path


def read(path: Path) -> Program:
    return read_program(open_package(path))


def evaluate(path: Path, taps: Sequence[str] = (), **inputs: np.ndarray) -> dict[str, Any]:
    """The results of the default function."""
    return Evaluator(read(path)).run(inputs, taps)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change the model's message in place."""
    with quiet():
        from coremltools.proto import Model_pb2
    model = Model_pb2.Model.FromString((path / MODEL).read_bytes())
    change(model)
    (path / MODEL).write_bytes(model.SerializeToString())


def operations(model: Any, function: str = "main") -> list[Any]:
    """The messages of a function's operations."""
    message = model.mlProgram.functions[function]
    return list(message.block_specializations[message.opset].operations)
