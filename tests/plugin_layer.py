"""NVIDIA's own plugin layer on a machine without TensorRT: its sources over the bindings of the lean runtime.

Those lack what only a builder has: expressions of shapes, descriptions of tensors and layouts. These few have stand-ins
here; `Build` calls a plugin as the builder does. Nothing is ever run, and no Runtime is made: without a GPU it aborts.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

_LEAN = "tensorrt_lean_bindings"


class Expression:
    """A dimension; without a value it is not known when an engine is built."""

    def __init__(self, value: int | None) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return self.value is not None

    def get_constant_value(self) -> int:
        assert self.value is not None
        return self.value


class ExpressionBuilder:
    """Makes constants and sums, which is all that the layer asks for here."""

    def constant(self, value: int) -> Expression:
        return Expression(value)

    def operation(self, operation: Any, first: Expression, second: Expression) -> Expression:
        assert operation.name == "SUM"
        if first.value is None or second.value is None:
            return Expression(None)
        return Expression(first.value + second.value)


class DimsExprs(list[Expression | None]):
    """A shape of so many dimensions."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class SymExpr:
    """What a scalar argument or a size of a launch is written to."""


class Tensor:
    """trt.ITensor, for annotations."""


class Layout(Enum):
    """trt.TensorFormat, shortened."""

    LINEAR = 0
    HWC = 1


@dataclass
class Description:
    """trt.PluginTensorDesc."""

    dims: tuple[int, ...] = ()
    type: Any = None
    format: Layout = Layout.LINEAR
    scale: float = 1.0


@dataclass
class DynamicDescription:
    """trt.DynamicPluginTensorDesc."""

    desc: Description = field(default_factory=Description)


@contextmanager
def plugin_layer() -> Iterator[tuple[Any, Any]]:
    """The modules tensorrt and tensorrt.plugin; afterwards neither they nor the plugins are there any more."""
    lean = import_module(_LEAN)
    trt = ModuleType("tensorrt")
    trt.__dict__.update({name: value for name, value in vars(lean).items() if not name.startswith("__")})
    stand_ins = {
        "IDimensionExpr": Expression,
        "DimsExprs": DimsExprs,
        "ISymExpr": SymExpr,
        "ITensor": Tensor,
        "TensorFormat": Layout,
        "PluginTensorDesc": Description,
        "DynamicPluginTensorDesc": DynamicDescription,
        "__version__": lean.__version__,
    }
    trt.__dict__.update(stand_ins)
    before = {name: module for name, module in sys.modules.items() if _is_tensorrt(name)}
    sys.modules["tensorrt"] = trt
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the layer's docstrings, where Python compiles them
            trtp = import_module(f"{_LEAN}.plugin")
        sys.modules["tensorrt.plugin"] = trtp
        try:
            yield trt, trtp
        finally:
            for creator in trtp._lib.QDP_CREATORS.values():
                lean.get_plugin_registry().deregister_creator(creator)
    finally:
        for name in [name for name in sys.modules if _is_tensorrt(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_tensorrt(name: str) -> bool:
    return name == "tensorrt" or name.startswith(("tensorrt.", f"{_LEAN}.plugin"))


@dataclass
class Kernel:
    """What TensorRT embeds: the kernel and its launch."""

    name: str
    text: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_memory_bytes: int
    scalars: int


class Build:
    """One node of a network that is built.

    Args:
        layer: what `plugin_layer` gives.
        name: of the plugin.
        attributes: of the node, in the order in which the creator names them, as the parser passes them.
        types: of the inputs: names of trt.DataType.
        shapes: of the inputs; None is a dimension that is not known.
    """

    def __init__(
        self,
        layer: tuple[Any, Any],
        name: str,
        attributes: Mapping[str, int],
        types: Sequence[str],
        shapes: Sequence[Sequence[int | None]],
    ) -> None:
        self.trt, trtp = layer
        creator = trtp._lib.QDP_CREATORS[f"debiexport::{name}"]
        self.numbers = {key: np.array([value], np.int32) for key, value in attributes.items()}
        fields = [self.trt.PluginField(key, x, self.trt.PluginFieldType.INT32) for key, x in self.numbers.items()]
        phase, request = self.trt.TensorRTPhase.BUILD, self.trt.QuickPluginCreationRequest.STRICT_AOT
        collection = self.trt.PluginFieldCollection(fields)
        self.plugin = creator.create_plugin(name, "debiexport", collection, phase, request)
        self.types = [getattr(self.trt.DataType, word) for word in types]
        self.shapes = shapes
        self.builder = ExpressionBuilder()

    def output(self) -> tuple[Any, tuple[int | None, ...]]:
        """Type and shape of the output, as the parser asks for them."""
        (dtype,) = self.plugin.get_output_data_types(self.types, [len(shape) for shape in self.shapes])
        self.inputs = []
        for shape in self.shapes:
            dims = DimsExprs(len(shape))
            dims[:] = [Expression(side) for side in shape]
            self.inputs.append(dims)
        (output,) = self.plugin.get_output_shapes(self.inputs, [], self.builder)
        return dtype, tuple(side.value for side in output)

    def kernels(self) -> dict[int, Kernel]:
        """The output, types and layouts, and then the kernel of every tactic."""
        dtype, shape = self.output()
        self.tensors = [
            DynamicDescription(Description(tuple(-1 if side is None else side for side in dims), of))
            for dims, of in zip([*self.shapes, shape], [*self.types, dtype], strict=True)
        ]
        count = len(self.shapes)
        self.formats = self.plugin.get_supported_format_combinations(self.tensors, count)
        self.plugin.configure_plugin(self.tensors[:count], self.tensors[count:])
        return {tactic: self.kernel(tactic) for tactic in self.plugin.get_valid_tactics()}

    def kernel(self, tactic: int) -> Kernel:
        """The kernel of one tactic; after `kernels`."""
        tensors, count = self.tensors, len(self.shapes)
        self.plugin.set_tactic(tactic)
        launch, scalars = SimpleNamespace(), SimpleNamespace(nbSymExprs=None)
        self.plugin.get_launch_params(self.inputs, tensors, count, launch, scalars, self.builder)
        descriptions = [tensor.desc for tensor in tensors]
        name, text = self.plugin.get_kernel(descriptions[:count], descriptions[count:])
        sizes = {key: value.expr.get_constant_value() for key, value in vars(launch).items()}
        return Kernel(
            name,
            text.decode(),
            (sizes["grid_x"], sizes["grid_y"], sizes["grid_z"]),
            (sizes["block_x"], sizes["block_y"], sizes["block_z"]),
            sizes["shared_mem"],
            scalars.nbSymExprs,
        )
