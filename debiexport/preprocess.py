"""Image files become the network's input, as the training pipelines did it.

The rule is torchvision's `Resize`, `CenterCrop`, `ToTensor`, `Normalize` on images that its
`ImageFolder` read, number for number:

1. The first frame is decoded and converted to RGB; transparency is dropped, not composited.
2. The image is scaled by one factor, so that it just covers a box that is `resize / crop` times as
   large as the export's image size. The box's sides are rounded down. One side of the image then has
   the box's size, and the other is rounded down too. At the card's own crop, and at every square size,
   this is `Resize` of the shorter side.
3. The centre is cut out. Where the margins cannot be equal, they are rounded like `CenterCrop`'s: the
   half to the even number.
4. Values are divided by 255, less `mean`, divided by `std`. A model that takes bytes does this step itself.

An EXIF orientation is not applied, since `ImageFolder` does not apply it: a photograph that a viewer
turns upright reaches the network as it is stored. TIFF is the exception, whose orientation pillow
itself applies.

Grey values of more than 8 bits, which `convert("RGB")` would clip to white, are scaled to 8 bits.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from debiexport.cards import Preprocessing, resize_box
from debiexport.errors import DebiexportError, ImageError, UsageError
from debiexport.geometry import check_image_size
from debiexport.signature import BYTES, NORMALIZED

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 64 * 2**20  # of a decoded image, and of a resized one
# Raster formats alone: pillow would also run an interpreter on EPS, and decoders that few have looked at.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO = 0


# ---------------------------------------------------------------------------------------- reading


def read_image(path: str | Path) -> Image.Image:
    """The image in a file, 8-bit RGB; see the module for what is done to other kinds.

    Sizes are checked before any pixel is decoded: at most `MAX_FILE_BYTES` bytes and `MAX_PIXELS` pixels.

    Args:
        path: a file in one of `FORMATS`, whatever its suffix.

    Returns:
        An image of mode "RGB" that no longer needs the file.

    Raises:
        UsageError: `path` is not a file.
        ImageError: the file is unreadable, too large, broken, or not an image of these formats.
    """
    path = Path(path)
    where = repr(str(path))  # a path may hold newlines; a message must not
    try:
        _check_file(path, where)
        return _decode(path, where)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no file {where}: give the path of an image") from error
    except OSError as error:
        raise ImageError(f"{where} cannot be read ({error.strerror}): check its permissions") from error


def _check_file(path: Path, where: str) -> None:
    try:
        status = path.stat()
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"no file {where}: give the path of an image") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UsageError(f"{where} is {kind}: give the path of an image file")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(
            f"{where} has {status.st_size} bytes; allowed are {MAX_FILE_BYTES}: scale the image down or compress it"
        )


def _decode(path: Path, where: str) -> Image.Image:
    """The RGB image in a file; OSErrors are of opening the file, never of decoding it."""
    # Pillow warns of odd metadata and of large sizes: the former do not matter, the latter are checked here.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_pixels(image, where)
                image.load()
                return _to_rgb(image, where)
        except DebiexportError:  # a refusal of ours, or the user's interruption
            raise
        except UnidentifiedImageError as error:
            raise ImageError(f"{where} is not an image: give a file in one of {', '.join(FORMATS)}") from error
        except Image.DecompressionBombError as error:  # pillow's own limit comes first where it is exceeded
            raise ImageError(f"{where} has too many pixels; allowed are {MAX_PIXELS}: scale the image down") from error
        except Exception as error:  # a decoder raises whatever it stumbles on in a broken file
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{where} cannot be decoded ({reason}): the file is broken, save it anew") from error


def _check_pixels(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{where} is {width}x{height} pixels; allowed are {MAX_PIXELS} pixels in all: scale the image down"
        )


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = _to_8_bits(image)
    elif image.mode in ("I", "F"):
        # Nothing in the file says which of these values are black and white.
        kind = "signed or 32-bit" if image.mode == "I" else "floating-point"
        raise ImageError(f"{where} has {kind} pixels, whose range is unknown: save it with 8 or 16 bits per channel")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey values scaled from their range to 0..255, rounded to the nearest."""
    highest, inverted = 65535, False  # pillow scales PPM's to 16 bits
    if isinstance(image, TiffImageFile):
        highest = 2 ** int(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]) - 1
        # Pillow inverts 8-bit images of this kind, but not these.
        inverted = image.tag_v2.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
    values = np.asarray(image).astype(np.uint32)
    values *= 255
    values += highest // 2  # `highest` is odd, so that there are no ties
    values //= highest
    levels = values.astype(np.uint8)
    return Image.fromarray(255 - levels if inverted else levels)


# ------------------------------------------------------------------------------- to the network's input


def preprocess(
    image: Image.Image, preprocessing: Preprocessing, image_size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """One image as the network's input; see the module for the rule.

    Args:
        image: mode "RGB", as `read_image` gives.
        preprocessing: a card's.
        image_size: (H, W) of the export, in pixels.

    Returns:
        float32 (3, H, W), normalised, contiguous; channels are R, G, B.

    Raises:
        UsageError: `image_size` is out of range.
        ImageError: the image is not RGB, or it is so thin that the resized image would exceed `MAX_PIXELS`.
    """
    return normalise(resize_and_crop(image, preprocessing, image_size), preprocessing)


def resize_and_crop(
    image: Image.Image, preprocessing: Preprocessing, image_size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """One image as the bytes of its pixels, before they are normalised: the input "uint8"; see `preprocess`.

    Returns:
        uint8 (H, W, 3), contiguous; channels are R, G, B.
    """
    height, width = check_image_size(image_size)
    if image.mode != "RGB":
        raise ImageError(f"the image has mode {image.mode!r}: convert it to 'RGB', as read_image does")
    resized_height, resized_width = _resized_size((image.height, image.width), preprocessing, image_size)
    if resized_height * resized_width > MAX_PIXELS:
        raise ImageError(
            f"an image of {image.width}x{image.height} pixels would be resized to {resized_width}x{resized_height}"
            f" to cover {width}x{height}; allowed are {MAX_PIXELS} pixels in all: cut it nearer to that shape"
        )
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    resized = image.resize((resized_width, resized_height), resampling)
    top, left = round((resized_height - height) / 2), round((resized_width - width) / 2)
    cropped = resized.crop((left, top, left + width, top + height))
    return np.ascontiguousarray(cropped)


def _resized_size(size: tuple[int, int], preprocessing: Preprocessing, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image of `size` once it covers the export's box; never smaller than `image_size`."""
    height, width = size
    box_height, box_width = resize_box(preprocessing, image_size)
    if box_height * width >= box_width * height:  # the image is wider than the box: the height decides
        return box_height, box_height * width // height
    return box_width * height // width, box_width


def normalise(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Bytes (H, W, 3) as the network's input: float32 (3, H, W), contiguous."""
    # In float32 and in this order, so that the numbers are torchvision's to the last bit.
    values = pixels.astype(np.float32)
    values /= np.float32(255)
    values -= np.asarray(preprocessing.mean, np.float32)
    values /= np.asarray(preprocessing.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def load_batch(
    paths: Sequence[str | Path], preprocessing: Preprocessing, image_size: tuple[int, int], input: str = NORMALIZED
) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
    """Image files as one batch, in the order given; see `read_image`, `preprocess` and `resize_and_crop`.

    Returns:
        float32 (N, 3, H, W) with N the number of paths, or for the input "uint8" bytes (N, H, W, 3).

    Raises:
        UsageError: there are no paths, one is not a file, or `image_size` is out of range.
        ImageError: a file is not a usable image; the message names it.
    """
    if not paths:
        raise UsageError("no images were given: give the path of at least one")
    return np.stack([load_image(path, preprocessing, image_size, input) for path in paths])


def load_image(
    path: str | Path, preprocessing: Preprocessing, image_size: tuple[int, int], input: str = NORMALIZED
) -> npt.NDArray[Any]:
    """One image file in the form that the network takes, without the batch; see `load_batch`."""
    image = read_image(path)
    try:
        pixels = resize_and_crop(image, preprocessing, image_size)
    except ImageError as error:
        raise ImageError(f"{str(path)!r}: {error}") from error
    return pixels if input in BYTES else normalise(pixels, preprocessing)
