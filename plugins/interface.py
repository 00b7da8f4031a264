"""What TensorRT has to know of a plugin: names and types of its tensors, attributes, and the sizes of its kernel.

Both forms of a plugin, the one that an engine embeds and the one that a build without a GPU takes, follow from it, and
so does what they refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from debiexport.errors import UsageError

NAMESPACE = "debiexport"
"""The ONNX domain of the nodes, which TensorRT takes for the plugins' namespace."""

VERSION = "1"
ELEMENT = "T"
"""Stands for FP32 or FP16, the same for all tensors of this type."""

ELEMENT_TYPES = ("FP32", "FP16")
_WORDS = {"FLOAT": "FP32", "HALF": "FP16"}


class KernelSizes(Protocol):
    """The static sizes of one use of a kernel, and how it is launched for them; `sizes.Sizes` of each plugin."""

    @property
    def refusal(self) -> str | None: ...
    @property
    def grid(self) -> tuple[int, int, int]: ...
    @property
    def warps(self) -> int: ...
    @property
    def stages(self) -> int: ...
    @property
    def pointers(self) -> tuple[str, ...]: ...
    def constants(self) -> dict[str, int]: ...
    def with_configuration(self, index: int) -> KernelSizes: ...


@dataclass(frozen=True)
class Interface:
    """A plugin of one output, which has the shape and type of the first input.

    Attributes:
        name: of the plugin, and the op_type of its nodes.
        inputs: types of the tensors by name, in order: `ELEMENT`, "FP32" or "INT32".
        attributes: names of the integers of a node.
        sizes: from the inputs' shapes in order, the attributes by name and `dtype` ("fp32" or "fp16"); raises
            UsageError.
        configurations: ways to launch the kernel.
    """

    name: str
    inputs: Mapping[str, str]
    attributes: tuple[str, ...]
    sizes: Callable[..., KernelSizes]
    configurations: int

    @property
    def plugin_id(self) -> str:
        """The name with its namespace, as TensorRT's plugin layer writes it."""
        return f"{NAMESPACE}::{self.name}"

    def element_type(self, dtypes: Sequence[Any]) -> str:
        """What `ELEMENT` stands for in one use.

        Args:
            dtypes: trt.DataType of the inputs.

        Raises:
            UsageError: the types are not those of the plugin.
        """
        given = [word_of(dtype) for dtype in dtypes]
        if len(given) != len(self.inputs):
            raise UsageError(f"{self.name} has {len(given)} inputs: give {', '.join(self.inputs)}")
        element = given[0]
        for (name, wanted), word in zip(self.inputs.items(), given, strict=True):
            if wanted == ELEMENT and element not in ELEMENT_TYPES:
                raise UsageError(f"{self.name} of {element}: give {' or '.join(ELEMENT_TYPES)}")
            expected = element if wanted == ELEMENT else wanted
            if word != expected:
                raise UsageError(f"{self.name}: {name} is {word} and has to be {expected}: put a Cast before it")
        return element

    def check_attributes(self, given: Mapping[str, Any]) -> None:
        """Refuse a node that lacks an attribute, has one too many, or gives them in another order.

        The order is the parser's: that of the plugin's declaration, whatever the node's is. Where a kernel is embedded,
        attributes are told apart by it alone.

        Raises:
            UsageError: naming them.
        """
        if tuple(given) != self.attributes:
            raise UsageError(
                f"{self.name} has the attributes {', '.join(given) or '(none)'}: give {' and '.join(self.attributes)}"
            )

    def types(self, element: str) -> tuple[str, ...]:
        """Types of the inputs in order and of the output, where `ELEMENT` stands for `element`."""
        inputs = (element if wanted == ELEMENT else wanted for wanted in self.inputs.values())
        return (*inputs, element)

    def sizes_of(
        self, shapes: Sequence[Sequence[int | None]], element: str, attributes: Mapping[str, int]
    ) -> KernelSizes:
        """The sizes of one use.

        Args:
            shapes: of the inputs in order; None or -1 is a dimension that is not known when the engine is built.
            element: what `ELEMENT` stands for.
            attributes: of the node.

        Raises:
            UsageError: a shape is not static, the shapes do not fit, or the kernel does not cover them.
        """
        static = []
        for name, shape in zip(self.inputs, shapes, strict=True):
            sides = [side for side in shape if side is not None and side >= 0]
            if len(sides) != len(shape):
                known = ", ".join("?" if side is None or side < 0 else str(side) for side in shape)
                raise UsageError(
                    f"{self.name}: {name} is ({known}), and the sizes are constants of the kernel: export with a fixed"
                    " batch and image size"
                )
            static.append(sides)
        sizes = self.sizes(*static, dtype=element.lower(), **attributes)
        if sizes.refusal is not None:
            raise UsageError(f"{self.name}: {sizes.refusal}; export this attention without the plugin")
        return sizes


def word_of(dtype: Any) -> str:
    """A trt.DataType as TensorRT's plugin layer writes it: "FP32", "FP16", "INT32" and so on."""
    name: str = dtype.name
    return _WORDS.get(name, name)
