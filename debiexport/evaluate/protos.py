"""The generated classes of the Core ML file format, all that is taken from coremltools."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from typing import Any

from debiexport.errors import BundleError
from debiexport.extras import require

PACKAGES = ("coremltools",)


def parse_model(content: bytes, where: str) -> Any:
    """The message `Model` of a model.mlmodel.

    Args:
        content: the file's bytes.
        where: what a message calls the file.

    Raises:
        BundleError: the bytes are not such a message.
        MissingDependencyError: coremltools is not installed.
    """
    protos = _protos()
    try:
        return protos.Model.FromString(content)
    except Exception as error:  # protobuf's DecodeError, or RuntimeError where a message nests too deep
        raise BundleError(f"{where} is cut short or no Core ML model: copy it again, or export again") from error


@cache
def dtype_names() -> dict[int, str]:
    """Names, such as FLOAT16, of the numbers of the format's element types."""
    _protos()
    from coremltools.proto import MIL_pb2

    return {number: name for name, number in MIL_pb2.DataType.items()}


@cache
def color_names() -> dict[int, str]:
    """Names, such as RGB, of the numbers of the format's colour spaces."""
    _protos()
    from coremltools.proto import FeatureTypes_pb2

    return {number: name for name, number in FeatureTypes_pb2.ImageFeatureType.ColorSpace.items()}


def _protos() -> Any:
    """The module with `Model`; coremltools' remarks on its own installation are kept quiet."""
    require(PACKAGES, "reading a Core ML package", "coreml")
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from coremltools.proto import Model_pb2
    finally:
        logger.setLevel(level)
    return Model_pb2
