"""What a server says of a model that debiexport exported: what it takes, and how an image becomes that.

Read from the model's configuration in the Open Inference Protocol, into whose parameters debiexport writes it, so a
client needs nothing but the server's address. It comes from outside and is checked like a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from debiexport.cards import INTERPOLATIONS, Preprocessing, resize_box
from debiexport.errors import InputError, UsageError
from debiexport.geometry import check_image_size
from debiexport.names import LOGITS
from debiexport.signature import IMAGES, INPUTS, input_spec
from debiexport.triton.served import IMAGE_SIZE, INPUT, LARGEST_BATCH, PREPROCESSING

LABELS = "labels"
_DTYPES = {"TYPE_FP32": "float32", "TYPE_FP16": "float16", "TYPE_UINT8": "uint8"}


@dataclass(frozen=True)
class RemoteModel:
    """A classifier behind a server.

    Attributes:
        name: of the model.
        batch: the only batch it takes, or None.
        max_batch: the largest batch it takes.
        dtype: of its images in numpy.
        image_size: (height, width) of these.
        input: their form, see `signature.INPUTS`.
        preprocessing: how an image file becomes one.
        classes: their number.
        labels: one per class, or None.
    """

    name: str
    batch: int | None
    max_batch: int
    dtype: str
    image_size: tuple[int, int]
    input: str
    preprocessing: Preprocessing
    classes: int
    labels: tuple[str, ...] | None


def read_model(config: Any, where: str) -> RemoteModel:
    """The model of a configuration.

    Args:
        config: a `tritonclient.grpc.model_config_pb2.ModelConfig`.
        where: the server, for messages.

    Raises:
        UsageError: debiexport did not export it, or it gives no classes.
        InputError: what the configuration says does not fit together.
    """
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    lacking = [name for name in (PREPROCESSING, INPUT, IMAGE_SIZE) if name not in parameters]
    if lacking:
        raise UsageError(
            f"{where} says nothing of the {', '.join(lacking)} of {config.name!r}, so debiexport did not write its"
            " configuration: give --model another one, or serve a bundle with debiexport serve or debiexport triton"
        )
    outputs = {output.name: list(output.dims) for output in config.output}
    if LOGITS not in outputs:
        raise UsageError(f"predict needs classes, but {config.name!r} at {where} gives {', '.join(outputs)}")
    try:
        return _model(config, parameters, outputs[LOGITS])
    except (LookupError, TypeError, ValueError, OverflowError, UsageError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"the configuration of {config.name!r} at {where} is damaged ({reason}): write it again with debiexport"
        ) from error


def weight_notes(config: Any, version: str, where: str) -> list[str]:
    """What has to be said of a version's weights whenever it is used."""
    begin = f"{version}."
    said = {
        name.removeprefix(begin): value.string_value
        for name, value in config.parameters.items()
        if name.startswith(begin)
    }
    notes, model = [], f"{config.name!r} at {where}"
    if "source" in said and "source_sha256" not in said:
        notes.append(f"the weights of {model} are {said['source']}: its outputs mean nothing")
    if said.get("verified") == "false":
        notes.append(f"{model} lost parity when it was exported: do not rely on these predictions")
    return notes


def _model(config: Any, parameters: Mapping[str, str], logits: list[int]) -> RemoteModel:
    from tritonclient.grpc.model_config_pb2 import DataType

    height, width = (int(side) for side in parameters[IMAGE_SIZE].split("x"))
    image_size = check_image_size((height, width))
    form = parameters[INPUT]
    if form not in INPUTS:
        raise ValueError(f"the input is {form!r}, not {' or '.join(INPUTS)}")
    (images,) = config.input
    dtype = _DTYPES[DataType.Name(images.data_type)]
    # Without a batch of the server's making the sides include the model's own.
    first = None if config.max_batch_size else images.dims[0]
    batch = None if first is None or first < 0 else first
    spec = input_spec(image_size, batch, form, dtype)
    sides = list(images.dims) if first is None else list(images.dims[1:])
    if (images.name, dtype, sides) != (IMAGES, spec.dtype, list(spec.shape[1:])):
        raise ValueError(f"it takes {images.name} {dtype} {sides}, not {spec.name} {spec.dtype} {list(spec.shape[1:])}")
    if (batch or 0) > LARGEST_BATCH or logits[-1] < 1:
        raise ValueError(f"it takes batches of {batch} and gives {logits[-1]} classes")
    return RemoteModel(
        config.name,
        batch,
        batch or max(config.max_batch_size, 1),
        dtype,
        image_size,
        form,
        _preprocessing(json.loads(parameters[PREPROCESSING]), image_size),
        logits[-1],
        _labels(json.loads(parameters.get(LABELS, "null")), logits[-1]),
    )


def _labels(data: Any, classes: int) -> tuple[str, ...] | None:
    if data is None:
        return None
    if not isinstance(data, list) or len(data) != classes or not all(isinstance(label, str) for label in data):
        raise ValueError(f"its labels are not {classes} texts")
    return tuple(data)


def _preprocessing(data: Mapping[str, Any], image_size: tuple[int, int]) -> Preprocessing:
    """The card's rule of what `Manifest.preprocessing` says of one image size."""
    height, width = image_size
    box_height, box_width = (int(side) for side in data["resize"])
    if data["interpolation"] not in INTERPOLATIONS:
        raise ValueError(f"the interpolation is {data['interpolation']!r}")
    mean, std = _three(data["mean"]), _three(data["std"])
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(f"the mean is {mean}, the standard deviation {std}")
    # Both sides were scaled by one fraction and rounded down; the larger of the two that are left gives both again.
    resize, crop = max((box_height, height), (box_width, width), key=lambda side: side[0] / side[1])
    rule = Preprocessing(resize, crop, data["interpolation"], mean, std)
    if resize_box(rule, image_size) != (box_height, box_width) or min(box_height - height, box_width - width) < 0:
        raise ValueError(f"an image of {height}x{width} is not cut out of {box_height}x{box_width}")
    return rule


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
