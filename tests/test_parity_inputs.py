"""The parity images: always the same, usable by every network, and without ties in the structured ones."""

from __future__ import annotations

import hashlib
from importlib import resources
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from debiexport import cards
from debiexport.cards import Preprocessing
from debiexport.errors import ImageError, UsageError
from debiexport.geometry import MAX_IMAGE_SIDE
from debiexport.parity_inputs import NAMES, ParityImage, parity_images
from debiexport.preprocess import normalise, preprocess, read_image

IMAGENET = Preprocessing(256, 224, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STRUCTURED = ("noise", "blobs", "checker", "gradient", "stripes")
SIZES = [(32, 32), (224, 224), (224, 160), (97, 301), (32, 1000), (1000, 32)]


def in_unit_range(image: ParityImage) -> npt.NDArray[np.float64]:
    """The RGB values of an image before they were normalised."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    values: npt.NDArray[np.float64] = image.tensor * std + mean
    return values


def tiles(planes: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """(3, rows, columns, side * side): the pixels of every whole tile."""
    rows, columns = planes.shape[1] // side, planes.shape[2] // side
    cut = planes[:, : rows * side, : columns * side].reshape(3, rows, side, columns, side)
    return cut.transpose(0, 1, 3, 2, 4).reshape(3, rows, columns, side * side)


def hashes(size: tuple[int, int]) -> list[str]:
    return [hashlib.sha256(image.tensor.tobytes()).hexdigest() for image in parity_images(IMAGENET, size)]


@pytest.mark.parametrize("size", SIZES)
def test_seven_normalised_images(size: tuple[int, int]) -> None:
    images = parity_images(IMAGENET, size)
    assert [image.name for image in images] == ["noise", "china", "blobs", "flower", "checker", "gradient", "stripes"]
    for image in images:
        assert image.tensor.shape == (3, *size)
        assert image.tensor.dtype == np.float32
        assert image.tensor.flags.c_contiguous
        assert np.isfinite(image.tensor).all()
        values = in_unit_range(image)
        assert -1e-6 < values.min() < values.max() < 1 + 1e-6


@pytest.mark.parametrize("size", [(32, 32), (97, 301)])
def test_always_the_same_and_never_alike(size: tuple[int, int]) -> None:
    first = hashes(size)
    assert first == hashes(size)
    assert len(set(first)) == len(NAMES)
    for a, b in combinations(parity_images(IMAGENET, size), 2):
        assert np.abs(a.tensor - b.tensor).mean() > 0.05


def test_mean_and_std_do_not_change_the_picture() -> None:
    shifted = Preprocessing(256, 224, "bicubic", (0.1, 0.2, 0.3), (2.0, 1.0, 0.5))
    for ours, theirs in zip(parity_images(IMAGENET, (64, 64)), parity_images(shifted, (64, 64)), strict=True):
        mean, std = (np.array(values).reshape(3, 1, 1) for values in (shifted.mean, shifted.std))
        assert in_unit_range(ours) == pytest.approx(theirs.tensor * std + mean, abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_structured_images_have_texture_everywhere(size: tuple[int, int]) -> None:
    for image in parity_images(IMAGENET, size):
        if image.name in STRUCTURED:
            values = in_unit_range(image)
            assert tiles(values, 8).std(axis=-1).min() > 0.025, image.name
            assert np.mean((values < 1e-6) | (values > 1 - 1e-6)) < 1e-3, image.name  # clipped


def test_structures_are_more_than_noise() -> None:
    for image in parity_images(IMAGENET, (224, 224)):
        if image.name in STRUCTURED:
            coarse = tiles(in_unit_range(image), 4).mean(axis=-1)  # noise of 0.05 leaves 0.0125
            assert (coarse.std(axis=(1, 2)) > 0.05).all(), image.name


def test_colour_tiles_of_noise_are_an_eighth_of_the_image() -> None:
    noise = in_unit_range(parity_images(IMAGENET, (64, 128))[0])
    for channel in noise.reshape(3, 8, 8, 8, 16):
        assert channel.std(axis=(1, 3)).mean() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("size", [(224, 224), (64, 160)])
@pytest.mark.parametrize("name", ["china", "flower"])
def test_photographs_go_through_the_preprocessing(name: str, size: tuple[int, int]) -> None:
    image = parity_images(IMAGENET, size)[NAMES.index(name)]
    with resources.as_file(resources.files("debiexport").joinpath("data", f"{name}.jpg")) as path:
        assert np.array_equal(image.tensor, preprocess(read_image(path), IMAGENET, size))


def test_photographs_are_those_of_scikit_learn_with_their_attribution() -> None:
    images = pytest.importorskip("sklearn.datasets")
    theirs = resources.files(images).joinpath("images")
    ours = resources.files("debiexport").joinpath("data")
    for name in ("china.jpg", "flower.jpg"):
        assert ours.joinpath(name).read_bytes() == theirs.joinpath(name).read_bytes()
    assert theirs.joinpath("README.txt").read_text() in ours.joinpath("README.txt").read_text()


@pytest.mark.parametrize("size", [(64, 64), (97, 301)])
def test_bytes_are_the_images_rounded(size: tuple[int, int]) -> None:
    for exact, rounded in zip(parity_images(IMAGENET, size), parity_images(IMAGENET, size, "uint8"), strict=True):
        assert exact.pixels is None and exact.input is exact.tensor
        assert rounded.pixels is not None and rounded.input is rounded.pixels
        assert rounded.name == exact.name
        assert (rounded.pixels.shape, rounded.pixels.dtype) == ((*size, 3), np.uint8)
        assert rounded.pixels.flags.c_contiguous
        assert np.array_equal(normalise(rounded.pixels, IMAGENET), rounded.tensor)
        difference = np.abs(in_unit_range(exact) - in_unit_range(rounded)).max()
        assert difference <= (0.5 / 255 + 1e-6 if exact.name in STRUCTURED else 0)


def test_every_card_has_parity_images() -> None:
    for card in cards.iter_cards():
        assert len(parity_images(card.preprocessing, (64, 64))) == 7


def test_largest_side() -> None:
    for size in ((MAX_IMAGE_SIDE, 32), (32, MAX_IMAGE_SIDE)):
        assert all(image.tensor.shape == (3, *size) for image in parity_images(IMAGENET, size))


def test_refusals() -> None:
    with pytest.raises(UsageError, match="--image-size is 31x32"):
        parity_images(IMAGENET, (31, 32))
    with pytest.raises(ImageError, match="would be resized to"):
        parity_images(Preprocessing(8192, 8, "nearest", IMAGENET.mean, IMAGENET.std), (224, 224))


def test_images_compare_by_identity() -> None:
    image = ParityImage("a", np.zeros((3, 32, 32), np.float32))
    assert image == image
    assert image != ParityImage("a", image.tensor)
    with pytest.raises(AttributeError):
        image.name = "b"  # type: ignore[misc]
