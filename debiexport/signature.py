"""What a model takes and gives: the forms of its input, and its tensors by name, dtype and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from debiexport.errors import UsageError
from debiexport.geometry import Geometry

IMAGES = "images"
NORMALIZED, UINT8, IMAGE = "normalized", "uint8", "image"
INPUTS = (NORMALIZED, UINT8)
"""float32 (N, 3, H, W), normalised with the card's mean and std; or RGB bytes (N, H, W, 3)."""

COREML_INPUTS = (NORMALIZED, IMAGE)
"""The same floats; or one image in the system's own form, which debiexport gives as RGB bytes (1, H, W, 3)."""

BYTES = (UINT8, IMAGE)
"""Those that are normalised inside the model."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, numpy dtype and shape, None for a dynamic batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


def check_input(input: str, allowed: Sequence[str] = INPUTS) -> str:
    """Refuse a form of the input that does not exist.

    Raises:
        UsageError: it does not.
    """
    if input not in allowed:
        raise UsageError(f"--input is {input!r}: allowed are {', '.join(allowed)}")
    return input


def input_spec(image_size: tuple[int, int], batch: int | None, input: str, dtype: str = "float32") -> TensorSpec:
    """The images as a model takes them; `dtype` is that of normalised ones."""
    if input in BYTES:
        return TensorSpec(IMAGES, "uint8", (batch, *image_size, 3))
    return TensorSpec(IMAGES, dtype, (batch, 3, *image_size))


def output_specs(geometry: Geometry, batch: int | None, dtype: str = "float32") -> tuple[TensorSpec, ...]:
    """The outputs of a model."""
    return tuple(TensorSpec(name, dtype, (batch, *shape)) for name, shape in geometry.output_shapes.items())
