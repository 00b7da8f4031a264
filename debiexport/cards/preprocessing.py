"""How an image file becomes a network's input, as a card says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the network's input.

    The shorter side is resized to `resize` pixels and the centre `crop` x `crop` taken; both scale
    with the image size of an export. `mean` and `std` are of RGB in [0, 1].
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def resize_box(preprocessing: Preprocessing, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the box that an image is scaled to just cover before `image_size` is cut out of it."""
    height, width = (side * preprocessing.resize // preprocessing.crop for side in image_size)
    return height, width
