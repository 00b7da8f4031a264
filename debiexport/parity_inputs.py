"""The images on which the parity of an artifact is measured.

Routing compares regions, and where two regions are alike it has nothing to choose by: constant areas
make exact ties, which two correct implementations may break differently. So these are images with
structure at several scales and fine noise everywhere, and two photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

from debiexport.cards import Preprocessing
from debiexport.geometry import check_image_size
from debiexport.preprocess import normalise, read_image, resize_and_crop
from debiexport.signature import BYTES, NORMALIZED

SEED = 20250
NOISE_STD = 0.05
# In this order, so that whoever takes the first few has both kinds.
NAMES = ("noise", "china", "blobs", "flower", "checker", "gradient", "stripes")

_Planes = npt.NDArray[np.float64]  # (3, H, W), R, G and B
# Structures stay in this range, so that hardly any of the noise is clipped at 0 and 1.
_LOW, _HIGH = 0.2, 0.8


@dataclass(frozen=True, eq=False)
class ParityImage:
    """One input of the network.

    Attributes:
        name: what it shows.
        tensor: float32 (3, H, W), normalised with the card's mean and std, contiguous.
        pixels: uint8 (H, W, 3), of which `tensor` is the normalised form, if the artifact takes bytes.
    """

    name: str
    tensor: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.uint8] | None = None

    @property
    def input(self) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
        """The image as the artifact takes it."""
        return self.tensor if self.pixels is None else self.pixels


def parity_images(
    preprocessing: Preprocessing, image_size: tuple[int, int], input: str = NORMALIZED
) -> list[ParityImage]:
    """The seven parity images at one image size; always the same with the same numpy and pillow.

    Args:
        preprocessing: a card's. The photographs go through all of it, the others through mean and std.
        image_size: (H, W) in pixels, each from 32 to 4096.
        input: "uint8" rounds the images to bytes, and keeps those beside what they are once normalised.

    Returns:
        One image for each of `NAMES`, in that order.

    Raises:
        UsageError: `image_size` is out of range.
        ImageError: a photograph would be resized beyond `MAX_PIXELS`; below a `resize` of 1.6 times the
            `crop`, no image size does that.
    """
    check_image_size(image_size)
    images = []
    for name in NAMES:
        pixels = None
        if input in BYTES:
            pixels = _bytes(name, image_size) if name in _STRUCTURES else _photograph(name, preprocessing, image_size)
            tensor = normalise(pixels, preprocessing)
        elif name in _STRUCTURES:
            tensor = _structured(name, preprocessing, image_size)
        else:
            tensor = normalise(_photograph(name, preprocessing, image_size), preprocessing)
        images.append(ParityImage(name, tensor, pixels))
    return images


def _photograph(name: str, preprocessing: Preprocessing, image_size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    with resources.as_file(resources.files("debiexport").joinpath("data", f"{name}.jpg")) as path:
        return resize_and_crop(read_image(path), preprocessing, image_size)


def _structured(name: str, preprocessing: Preprocessing, image_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    tensor = np.empty((3, *image_size), np.float32)
    for channel, plane in enumerate(_noisy_planes(name, image_size)):
        tensor[channel] = (plane - preprocessing.mean[channel]) / preprocessing.std[channel]
    return tensor


def _bytes(name: str, image_size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    pixels = np.empty((*image_size, 3), np.uint8)
    for channel, plane in enumerate(_noisy_planes(name, image_size)):
        pixels[:, :, channel] = np.rint(255 * plane)
    return pixels


def _noisy_planes(name: str, image_size: tuple[int, int]) -> Iterator[npt.NDArray[np.float64]]:
    """R, G and B (H, W) in [0, 1], one at a time, as 4096 x 4096 takes memory."""
    # A stream of its own for every image, whichever others are made. PCG64 by name: numpy's default may change.
    random = np.random.Generator(np.random.PCG64([SEED, NAMES.index(name)]))
    for plane in _STRUCTURES[name](random, *image_size):
        plane += random.normal(0.0, NOISE_STD, plane.shape)
        yield np.clip(plane, 0.0, 1.0, out=plane)


# ------------------------------------------------------------------------------------- structures
#
# Each gives float64 (3, H, W) between _LOW and _HIGH. Lengths are relative to the image, so that every
# image size shows the same picture.


def _noise(random: np.random.Generator, height: int, width: int) -> _Planes:
    """8 x 8 flat tiles of random colours."""
    tiles = random.uniform(_LOW, _HIGH, (3, 8, 8))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return tiles[:, rows[:, None], columns]


def _blobs(random: np.random.Generator, height: int, width: int) -> _Planes:
    """24 soft spots of random colours, places and sizes on mid-grey."""
    count = 24
    centre_y, centre_x = random.uniform(0.0, 1.0, (2, count, 1))
    radius = random.uniform(0.04, 0.2, (count, 1))
    colours = random.uniform(-1.0, 1.0, (3, count))
    # A Gaussian is the product of one over the rows and one over the columns.
    over_rows = np.exp(-(((_positions(height) - centre_y) / radius) ** 2))
    over_columns = np.exp(-(((_positions(width) - centre_x) / radius) ** 2))
    heights = np.stack([(over_rows.T * colour) @ over_columns for colour in colours])
    return _in_range(np.tanh(heights))


def _checker(random: np.random.Generator, height: int, width: int) -> _Planes:
    """Four bands of checkerboards from fine to coarse, each of two random colours."""
    planes = np.empty((3, height, width))
    y = np.arange(height)[:, None]
    for band, squares in enumerate((56, 28, 14, 7)):
        left, right = band * width // 4, (band + 1) * width // 4
        side = max(1, min(height, width) // squares)
        odd = (y // side + np.arange(left, right) // side) % 2
        colours = random.uniform(_LOW, _HIGH, (3, 2))
        planes[:, :, left:right] = colours[:, odd]
    return planes


def _gradient(random: np.random.Generator, height: int, width: int) -> _Planes:
    """Each channel rises in a direction of its own."""
    angles = random.uniform(0.0, 2 * np.pi, 3)
    return _in_range(np.stack([np.sin(_along(angle, height, width)) for angle in angles]))


def _stripes(random: np.random.Generator, height: int, width: int) -> _Planes:
    """Each channel waves in a direction of its own, ever faster: a chirp."""
    planes = np.empty((3, height, width))
    for plane, angle, phase in zip(planes, *random.uniform(0.0, 2 * np.pi, (2, 3)), strict=True):
        t = _along(angle, height, width) + 1.5  # 0.09 to 2.91: at most 13 waves, the last the shortest
        plane[:] = np.sin(2 * np.pi * (1.0 + 1.2 * t) * t + phase)
    return _in_range(planes)


def _positions(count: int) -> npt.NDArray[np.float64]:
    """The centres of `count` pixels in a side of length 1."""
    return (np.arange(count) + 0.5) / count


def _along(angle: float, height: int, width: int) -> npt.NDArray[np.float64]:
    """(H, W): how far each pixel lies from the centre in a direction, in -sqrt(2)..sqrt(2)."""
    y, x = 2 * _positions(height) - 1, 2 * _positions(width) - 1
    distance: npt.NDArray[np.float64] = y[:, None] * np.sin(angle) + x * np.cos(angle)
    return distance


def _in_range(planes: _Planes) -> _Planes:
    """Values of -1..1 moved to _LOW.._HIGH."""
    return _LOW + (_HIGH - _LOW) * (planes + 1) / 2


_STRUCTURES: dict[str, Callable[[np.random.Generator, int, int], _Planes]] = {
    "noise": _noise,
    "blobs": _blobs,
    "checker": _checker,
    "gradient": _gradient,
    "stripes": _stripes,
}
