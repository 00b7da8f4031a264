"""Triton's protobuf classes, from the package of its client; and model configurations as text."""

from __future__ import annotations

from typing import Any

from debiexport.extras import require

CONFIG = "config.pbtxt"

ModelConfig = Any
"""`tritonclient.grpc.model_config_pb2.ModelConfig`; made at run time, it has no types to check."""


def classes() -> Any:
    """The module of a model configuration's messages.

    Raises:
        MissingDependencyError: tritonclient is not installed.
    """
    require(("tritonclient", "grpc"), "a model configuration of Triton", "serve")
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2


def to_text(config: ModelConfig) -> str:
    """A configuration as `config.pbtxt` has it; fields that are zero are left out, as is usual there."""
    classes()
    from google.protobuf import text_format

    return str(text_format.MessageToString(config, as_utf8=True))


def from_text(text: str) -> ModelConfig:
    """Read a `config.pbtxt`.

    Raises:
        ValueError: it is none, or has a field or a value that Triton does not know; says the line.
    """
    config = classes().ModelConfig()
    from google.protobuf import text_format

    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return config
