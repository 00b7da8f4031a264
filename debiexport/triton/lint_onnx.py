"""An ONNX model against the configuration that speaks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from debiexport.triton.lint_model import Finding, LintedModel, dims_of, type_name

_TYPES = {
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "DOUBLE": "TYPE_FP64",
    "BFLOAT16": "TYPE_BF16",
}
"""ONNX's types whose name is not that of Triton."""


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the file: Triton's name of its type, and its sides, None where they are open."""

    data_type: str
    sides: tuple[int | None, ...]


def compare(model: LintedModel, path: Path, file: str) -> Iterator[Finding]:
    """What a configuration says that an ONNX file does not take or give."""
    import onnx

    try:
        loaded = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's and onnx's errors have no common root
        yield model.error(f"is no ONNX model ({' '.join(str(error).split())[:160]})", "export it again", file=file)
        return
    yield from _missing_data(model, loaded, path.parent, file)
    weights = {tensor.name for tensor in loaded.graph.initializer}
    inputs = {value.name: _tensor(value) for value in loaded.graph.input if value.name not in weights}
    outputs = {value.name: _tensor(value) for value in loaded.graph.output}
    yield from _compare("input", model, inputs, model.config.input, file)
    yield from _compare("output", model, outputs, model.config.output, file)
    for name in sorted(set(inputs) - {tensor.name for tensor in model.config.input}):
        yield model.error(f"the input {name!r} of {file} is not in the configuration", "add it")
    for name in sorted(set(outputs) - {tensor.name for tensor in model.config.output}):
        yield model.warning(f"the output {name!r} of {file} is not in the configuration, so nobody gets it", "add it")


def _missing_data(model: LintedModel, loaded: Any, folder: Path, file: str) -> Iterator[Finding]:
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    names = {ExternalDataInfo(t).location for t in loaded.graph.initializer if uses_external_data(t)}
    for name in sorted(names):
        if not (folder / name).is_file():
            yield model.error(f"keeps weights in {name!r}, which is not beside it", "add it", file=file)


def _compare(
    kind: str, model: LintedModel, found: Mapping[str, _Tensor], configured: Any, file: str
) -> Iterator[Finding]:
    for tensor in configured:
        if tensor.name not in found:
            yield model.error(
                f"the {kind} {tensor.name!r} is not in {file}, which has {', '.join(found) or 'none'}",
                "name the model's own",
            )
            continue
        theirs, dims = found[tensor.name], dims_of(tensor)
        if type_name(tensor.data_type) != theirs.data_type:
            yield model.error(
                f"the {kind} {tensor.name!r} is {type_name(tensor.data_type)}, in {file} it is {theirs.data_type}",
                "give it the model's type",
            )
        batched = model.max_batch > 0
        if batched and (not theirs.sides or theirs.sides[0] is not None):
            yield model.error(
                f"max_batch_size is {model.max_batch}, but {tensor.name!r} of {file} has the fixed sides"
                f" {_shown(theirs.sides)}",
                "export with --batch dynamic, or set max_batch_size to 0 and give the dims with the batch",
            )
        elif not _fits(dims, theirs.sides[1:] if batched else theirs.sides):
            without = " without the batch" if batched else ""
            yield model.error(
                f"the {kind} {tensor.name!r} has the dims {dims}, in {file}{without} they are"
                f" {_shown(theirs.sides[1:] if batched else theirs.sides)}",
                "give it the model's dims",
            )


def _fits(dims: list[int], sides: tuple[int | None, ...]) -> bool:
    """An open side of the model may be narrowed by the configuration, never the other way round."""
    return len(dims) == len(sides) and all(b is None or a == b for a, b in zip(dims, sides, strict=True))


def _tensor(value: Any) -> _Tensor:
    import onnx

    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    sides = (side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return _Tensor(_TYPES.get(name, f"TYPE_{name}"), tuple(sides))


def _shown(sides: tuple[int | None, ...]) -> str:
    return str([-1 if side is None else side for side in sides])
