"""A plugin's twin in Python, for builds that check a graph: TensorRT for RTX embeds no kernels, and needs no GPU.

It proves that the nodes of a graph are what the plugin takes, and lets the rest of the network be built. Such an
engine does not run: a twin computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from debiexport.errors import DebiexportError, UsageError

from .interface import NAMESPACE, VERSION, Interface, word_of

Refuse = Callable[[str], None]
"""Told why a node is refused; TensorRT itself passes no words on."""


def twin_creator(trt: Any, interface: Interface, refuse: Refuse) -> Any:
    """A creator of twins, to be given to the plugin registry and kept as long as it is used.

    Args:
        trt: the module tensorrt_rtx, or tensorrt.
        interface: of the plugin.
        refuse: told why a node is refused, with its name.
    """
    integer = trt.PluginFieldType.INT32

    class Twin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        """See the module; the methods are those that TensorRT calls."""

        def __init__(self, node: str, attributes: dict[str, int]) -> None:
            for base in (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = interface.name, VERSION, NAMESPACE
            self.num_outputs = 1
            self.node, self.attributes = node, attributes
            self.element = ""

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            twin = Twin(self.node, self.attributes)
            twin.element = self.element
            return twin

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            with _refusals(self.node, refuse):
                self.element = interface.element_type(input_types)
            return [input_types[0]]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
            with _refusals(self.node, refuse):
                shapes = [[side.get_constant_value() if side.is_constant() else None for side in x] for x in inputs]
                interface.sizes_of(shapes, self.element, self.attributes)
            output = trt.DimsExprs(len(inputs[0]))
            for axis, side in enumerate(inputs[0]):
                output[axis] = side
            return [output]

        def supports_format_combination(self, position: int, tensors: Sequence[Any], input_count: int) -> bool:
            description = tensors[position].desc
            types = interface.types(word_of(tensors[0].desc.type))
            linear: bool = description.format == trt.TensorFormat.LINEAR
            return linear and word_of(description.type) == types[position]

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            pass

        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            pass

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None:
            pass

        def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
            return 0

        def get_fields_to_serialize(self) -> Any:
            # Kept: a field points to the numbers and does not own them.
            self.numbers = {name: np.array([value], np.int32) for name, value in self.attributes.items()}
            return trt.PluginFieldCollection([trt.PluginField(name, x, integer) for name, x in self.numbers.items()])

        def enqueue(self, *_: Any) -> None:
            raise DebiexportError(
                f"{self.node}: this engine was built to check the graph and does not run; build one with TensorRT,"
                " which embeds the kernel, or export without the plugins"
            )

    class Creator(trt.IPluginCreatorV3One):
        """Makes twins of nodes and of serialized engines."""

        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = interface.name, VERSION, NAMESPACE
            self.none = np.array([], np.int32)
            fields = [trt.PluginField(name, self.none, integer) for name in interface.attributes]
            self.field_names = trt.PluginFieldCollection(fields)

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            with _refusals(name, refuse):
                given = {field.name: field for field in fields}
                interface.check_attributes(given)
                for field in given.values():
                    if field.type != integer:
                        raise UsageError(f"{interface.name}: {field.name} is {field.type.name}: give an integer")
                return Twin(name, {field.name: int(field.data[0]) for field in given.values()})

    return Creator()


@contextmanager
def _refusals(node: str, refuse: Refuse) -> Iterator[None]:
    """Tell of a refusal and let it pass."""
    try:
        yield
    except UsageError as error:
        refuse(f"{node}: {error}")
        raise
