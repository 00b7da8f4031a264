"""Reading the layers of a network that TensorRT parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from debiexport.targets.tensorrt.rtx_report import RtxGridSample, RtxLayer, RtxTensor

_NODE = re.compile(r"\[ONNX Layer: (?P<name>[^\]]*)\]")
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


def read_layers(layers: Sequence[Any]) -> tuple[RtxLayer, ...]:
    """What every `ILayer` is, in their order."""
    return tuple(
        RtxLayer(
            name=layer.name,
            type=layer.type.name,
            node=match["name"] if (match := _NODE.search(layer.metadata)) else "",
            inputs=tuple(_tensors(layer.get_input, layer.num_inputs)),
            outputs=tuple(_tensors(layer.get_output, layer.num_outputs)),
        )
        for layer in layers
    )


def read_grid_samples(trt: Any, layers: Sequence[Any]) -> tuple[RtxGridSample, ...]:
    """How every GridSample among the layers was understood.

    Args:
        trt: the module that the layers are of.
    """
    found = []
    for layer in layers:
        if layer.type == trt.LayerType.GRID_SAMPLE:
            layer.__class__ = trt.IGridSampleLayer  # a network gives its layers without what their type has
            found.append(
                RtxGridSample(
                    name=layer.name,
                    mode=layer.interpolation_mode.name.lower(),
                    align_corners=bool(layer.align_corners),
                    padding=layer.sample_mode.name.lower(),
                )
            )
    return tuple(found)


def _tensors(get: Any, count: int) -> Iterator[RtxTensor]:
    for i in range(count):
        tensor = get(i)
        if tensor is not None:  # an optional input that is left out
            dtype = tensor.dtype.name
            yield RtxTensor(tensor.name, _DTYPES.get(dtype, dtype.lower()), _shape(tensor))


def _shape(tensor: Any) -> tuple[int, ...] | None:
    try:
        return tuple(int(size) for size in tensor.shape)
    except ValueError:  # a negative number of dimensions says that they are not known
        return None
