"""What a package says of itself to an app: its inputs and outputs, images and labels among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from debiexport.errors import BundleError
from debiexport.evaluate.protos import color_names

IMAGE = "image"
_FLEXIBLE = {IMAGE: "SizeFlexibility", "multiArray": "ShapeFlexibility"}


@dataclass(frozen=True)
class Feature:
    """An input or output as an app sees it.

    Attributes:
        name: also the name of the value in the program.
        kind: "multiArray", "image", "string", "int64", "dictionary", ...
        color: of an image: "RGB", "BGR", "GRAYSCALE", ...
        height, width: of an image, in pixels; 0 otherwise.
    """

    name: str
    kind: str
    color: str | None = None
    height: int = 0
    width: int = 0


@dataclass(frozen=True)
class Description:
    """Inputs and outputs of a function.

    Attributes:
        inputs, outputs: in the order of the file.
        label: name of the output that is the predicted class; None if it is no classifier.
        probabilities: name of the output with the probability of every class; None likewise.
    """

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    label: str | None = None
    probabilities: str | None = None

    @property
    def images(self) -> dict[str, Feature]:
        """The inputs that are images, by name."""
        return {feature.name: feature for feature in self.inputs if feature.kind == IMAGE}


def read_description(message: Any) -> Description:
    """A description from its message.

    Args:
        message: ModelDescription or FunctionDescription of the file format.

    Raises:
        BundleError: a shape is not fixed, or the model keeps states.
    """
    if message.state:
        raise BundleError(f"{message.state[0].name!r} is a state that lasts from run to run: export without states")
    return Description(
        tuple(_feature(feature) for feature in message.input),
        tuple(_feature(feature) for feature in message.output),
        message.predictedFeatureName or None,
        message.predictedProbabilitiesName or None,
    )


def _feature(message: Any) -> Feature:
    field = message.type.WhichOneof("Type") or "no"
    kind = field.removesuffix("Type")
    detail: Any = getattr(message.type, field, None)
    if kind in _FLEXIBLE and detail.WhichOneof(_FLEXIBLE[kind]):
        raise BundleError(f"{message.name!r} takes several shapes: export the model with fixed shapes")
    if kind != IMAGE:
        return Feature(message.name, kind)
    color = color_names().get(detail.colorSpace, "unknown")
    return Feature(message.name, kind, color, detail.height, detail.width)
