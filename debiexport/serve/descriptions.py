"""What the server says of itself and of its models, as the protocol's JSON has it; gRPC's messages are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from debiexport._version import __version__
from debiexport.environment import usable_cpus
from debiexport.serve.models import LoadedModel, Models
from debiexport.serve.options import MAX_WAIT_US, ServeOptions
from debiexport.signature import TensorSpec
from debiexport.triton.dtypes import protocol_type
from debiexport.triton.model_config import model_config
from debiexport.triton.presets import ServingOptions
from debiexport.triton.protos import ModelConfig

NAME = "debiexport"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")


def server_metadata() -> dict[str, Any]:
    return {"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(models: Models, name: str, version: str = "") -> dict[str, Any]:
    """Inputs and outputs of a model, with the versions that there are, or the one that is named.

    Raises:
        NotFound, BadRequest: see `Models.find`.
    """
    model = models.find(name, version)
    versions = [model.version] if version else models.versions(name)
    return {
        "name": name,
        "versions": [str(number) for number in versions],
        "platform": model.served.platform,
        "inputs": [_tensor(spec) for spec in model.served.inputs],
        "outputs": [_tensor(spec) for spec in model.served.outputs],
    }


def config(models: Models, options: ServeOptions, name: str, version: str = "") -> ModelConfig:
    """A model's configuration, as a repository of Triton would have it, with this server's choices.

    Raises:
        NotFound, BadRequest: see `Models.find`.
    """
    model = models.find(name, version)
    versions = [models.find(name, str(number)) for number in models.versions(name)]
    serving = ServingOptions(
        threads=options.threads or usable_cpus() or 1,
        queue_delay_us=options.queue_delay_us,
        timeout_us=MAX_WAIT_US,
        max_queue=options.max_queue,
    )
    found = model_config(model.served, serving, {each.version: each.served.provenance for each in versions})
    found.version_policy.all.SetInParent()  # every bundle that was given
    del found.model_warmup[1:]  # only the smallest batch is run before the first request
    return found


def as_json(message: Any) -> Any:
    """A message as Triton writes it in JSON: names as they are declared, and 64-bit numbers as numbers."""
    from google.protobuf.json_format import MessageToDict

    return _with_numbers(
        MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True),
        message.DESCRIPTOR,
    )


def statistics(models: Models, name: str = "", version: str = "") -> dict[str, Any]:
    """What has happened to the requests of a model's versions, or of one; without a name of all models.

    Raises:
        NotFound, BadRequest: see `Models.find`.
    """
    return {
        "model_stats": [
            {"name": model.name, "version": str(model.version), **model.statistics.to_dict()}
            for model in _chosen(models, name, version)
        ]
    }


def index(models: Models, ready: bool, only_ready: bool = False) -> list[dict[str, str]]:
    """Every model and version, and whether it takes requests."""
    state = {"state": "READY", "reason": ""} if ready else {"state": "UNAVAILABLE", "reason": "the server is stopping"}
    if only_ready and not ready:
        return []
    return [{"name": model.name, "version": str(model.version), **state} for model in models]


def _chosen(models: Models, name: str, version: str) -> Sequence[LoadedModel]:
    if not name:
        return list(models)
    if version:
        return [models.find(name, version)]
    return [models.find(name, str(number)) for number in models.versions(name)]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if side is None else side for side in spec.shape]
    return {"name": spec.name, "datatype": protocol_type(spec.dtype), "shape": shape}


def _with_numbers(content: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    """protobuf writes 64-bit numbers as strings, for readers that know no others than floats."""
    fixed = {}
    for field in descriptor.fields:
        if field.name not in content:
            continue
        value, wide = content[field.name], field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            entry = inner.fields_by_name["value"].message_type
            fixed[field.name] = value if entry is None else {k: _with_numbers(v, entry) for k, v in value.items()}
        elif isinstance(value, list):
            fixed[field.name] = [_number(part, wide, inner) for part in value]
        else:
            fixed[field.name] = _number(value, wide, inner)
    return fixed


def _number(value: Any, wide: bool, inner: Any) -> Any:
    if inner is not None:
        return _with_numbers(value, inner)
    return int(value) if wide else value
