"""Image files to network input: what is read, what is refused, and torchvision's numbers."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from debiexport import preprocess as module
from debiexport.cards import INTERPOLATIONS, Preprocessing
from debiexport.errors import DebiexportError, ImageError, Interrupted, UsageError
from debiexport.preprocess import load_batch, normalise, preprocess, read_image, resize_and_crop

IMAGENET = Preprocessing(256, 224, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Preprocessing(32, 32, "nearest", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def colours(height: int, width: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def image_file(folder: Path, name: str, image: Image.Image, **options: Any) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def webp_header(width: int, height: int) -> bytes:
    """A WEBP whose canvas is larger than the image in it."""
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "WEBP")
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + small.getvalue()[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def assert_refused(kind: type[DebiexportError], exit_code: int, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(kind, match=re.escape(words)) as caught:
        call()
    assert type(caught.value) is kind
    assert caught.value.exit_code == exit_code
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_files_keep_their_pixels(tmp_path: Path, suffix: str) -> None:
    pixels = colours(20, 33)
    options = {"lossless": True} if suffix == "webp" else {}
    image = read_image(image_file(tmp_path, f"a.{suffix}", Image.fromarray(pixels), **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


def test_jpeg_is_read_as_pillow_does(tmp_path: Path) -> None:
    path = image_file(tmp_path, "a.jpg", Image.fromarray(colours(40, 50)))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(read_image(str(path))), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "name"),
    [("1", "a.png"), ("L", "a.png"), ("LA", "a.png"), ("P", "a.gif"), ("RGBA", "a.png"), ("CMYK", "a.jpg")],
)
def test_other_modes_become_rgb_as_in_training(tmp_path: Path, mode: str, name: str) -> None:
    path = image_file(tmp_path, name, Image.fromarray(colours(16, 24)).convert(mode))
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (24, 16))
    with Image.open(path) as stored:
        assert stored.mode == mode
        assert np.array_equal(np.asarray(image), np.asarray(stored.convert("RGB")))


def test_transparency_is_dropped_not_composited(tmp_path: Path) -> None:
    path = image_file(tmp_path, "a.png", Image.new("RGBA", (4, 4), (200, 100, 50, 0)))
    assert read_image(path).getpixel((0, 0)) == (200, 100, 50)


def test_palette_with_transparency_bytes_does_not_warn(tmp_path: Path) -> None:
    image = Image.fromarray(colours(8, 8)).convert("P")
    path = image_file(tmp_path, "a.png", image, transparency=bytes([0, 128, 255]))
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(image.convert("RGB")))


SIXTEEN_BITS = np.array([[0, 128, 129, 257, 32768, 65279, 65406, 65407, 65535]], np.uint16)
EIGHT_BITS = [0, 0, 1, 1, 128, 254, 254, 255, 255]  # of SIXTEEN_BITS / 257, rounded


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.ppm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    pixels = np.asarray(read_image(image_file(tmp_path, name, Image.fromarray(SIXTEEN_BITS))))
    assert pixels[0, :, 0].tolist() == EIGHT_BITS
    assert (pixels == pixels[..., :1]).all()


def test_16_bit_grey_whose_zero_is_white(tmp_path: Path) -> None:
    path = image_file(tmp_path, "a.tiff", Image.fromarray(SIXTEEN_BITS), tiffinfo={262: 0})
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [255 - value for value in EIGHT_BITS]


def test_12_bit_grey(tmp_path: Path) -> None:
    pixels = bytes([0x00, 0x08, 0x00, 0xFF, 0xFF, 0xFF])  # 0, 2048, 4095, 4095
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path = tmp_path / "a.tiff"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + pixels)
    assert len(directory) + 8 == tags[273]
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    path = image_file(tmp_path, f"a.{suffix}", red, save_all=True, append_images=[blue], **options)
    assert read_image(path).getpixel((3, 3)) == (255, 0, 0)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees
    path = image_file(tmp_path, "a.jpg", Image.fromarray(colours(16, 24)), exif=exif)
    assert read_image(path).size == (24, 16)


def test_tiff_orientation_is_applied_by_pillow(tmp_path: Path) -> None:
    path = image_file(tmp_path, "a.tiff", Image.fromarray(colours(16, 24)), tiffinfo={0x0112: 6})
    assert read_image(path).size == (16, 24)


def test_the_content_counts_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(colours(8, 9)).save(path, "PNG")
    assert read_image(path).size == (9, 8)


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["none.png", "none/none.png", "file/inside.png", "two\nlines.png", "nul\0.png"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(UsageError, 2, "no file", lambda: read_image(tmp_path / name))


def test_folder(tmp_path: Path) -> None:
    assert_refused(UsageError, 2, "is a folder", lambda: read_image(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(UsageError, 2, "not a regular file", lambda: read_image(tmp_path / "pipe.png"))


@pytest.mark.parametrize(
    "content", [b"", b"not an image\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"]
)
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(content)
    assert_refused(ImageError, 4, "text.png' is not an image: give a file in one of PNG, ", lambda: read_image(path))


def test_formats_beyond_the_list_are_refused(tmp_path: Path) -> None:
    path = image_file(tmp_path, "a.ico", Image.new("RGB", (16, 16)))
    assert_refused(ImageError, 4, "is not an image", lambda: read_image(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp", "ppm"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_file(tmp_path: Path, suffix: str, part: float) -> None:
    path = image_file(tmp_path, f"a.{suffix}", Image.fromarray(colours(64, 64)))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert_refused(ImageError, 4, f"a.{suffix}' ", lambda: read_image(path))


def test_truncated_jpeg_says_so(tmp_path: Path) -> None:
    path = image_file(tmp_path, "a.jpg", Image.fromarray(colours(64, 64)))
    path.write_bytes(path.read_bytes()[:2000])
    assert_refused(ImageError, 4, "cannot be decoded (", lambda: read_image(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp", "ppm"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    content = image_file(tmp_path, f"a.{suffix}", Image.fromarray(colours(24, 24))).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "damaged"
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = random.integers(0, len(damaged), 4)
        damaged[places] = random.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(ImageError):  # and nothing else, such as a warning or an error of the decoder
            assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("side", [8200, 10_000, 60_000])  # below and above the sizes that pillow warns of and refuses
@pytest.mark.parametrize("header", [png_header, webp_header])
@pytest.mark.parametrize("action", ["error", "default"])
def test_bomb_is_refused_by_its_header(
    tmp_path: Path, side: int, header: Callable[[int, int], bytes], action: Any
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(header(side, side))
    with warnings.catch_warnings(record=action != "error") as seen:
        warnings.simplefilter(action)
        with pytest.raises(ImageError, match=r"bomb\.png' .*") as caught:
            read_image(path)
    assert not seen
    assert "\n" not in str(caught.value)
    if header is png_header:
        assert "pixels; allowed are 67108864" in str(caught.value)


def test_pixels_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 12)
    assert read_image(image_file(tmp_path, "a.png", Image.new("RGB", (4, 3)))).size == (4, 3)
    path = image_file(tmp_path, "b.png", Image.new("RGB", (13, 1)))
    assert_refused(ImageError, 4, "is 13x1 pixels; allowed are 12", lambda: read_image(path))


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(module.MAX_FILE_BYTES + 1)  # takes no room on the disk
    assert_refused(ImageError, 4, "has 268435457 bytes; allowed are 268435456", lambda: read_image(path))


@pytest.mark.parametrize(("dtype", "kind"), [(np.int32, "signed or 32-bit"), (np.float32, "floating-point")])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, dtype: type, kind: str) -> None:
    path = image_file(tmp_path, "a.tiff", Image.fromarray(np.zeros((4, 4), dtype)))
    assert_refused(ImageError, 4, f"has {kind} pixels", lambda: read_image(path))


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image_file(tmp_path, "a.png", Image.new("RGB", (4, 4)))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a mode of 000 does not stop root
    assert_refused(ImageError, 4, "cannot be read (Permission denied)", lambda: read_image(path))


def test_interruption_is_not_taken_for_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image_file(tmp_path, "a.png", Image.new("RGB", (4, 4)))

    def interrupt(*_: object) -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(module, "_to_rgb", interrupt)
    with pytest.raises(Interrupted):
        read_image(path)


# ------------------------------------------------------------------------------- to the network's input


def torchvision_rule(
    pixels: npt.NDArray[np.uint8], resize: int, crop: int, filter_: Image.Resampling
) -> npt.NDArray[np.float32]:
    """Resize(resize), CenterCrop(crop), ToTensor, Normalize, written down from torchvision's source."""
    height, width = pixels.shape[:2]
    short, long = min(height, width), max(height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_height, new_width = (new_short, new_long) if height <= width else (new_long, new_short)
    resized = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), filter_))
    top, left = int(round((new_height - crop) / 2.0)), int(round((new_width - crop) / 2.0))  # noqa: RUF046
    tensor = (resized[top : top + crop, left : left + crop].transpose(2, 0, 1) / np.float32(255)).astype(np.float32)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    return (tensor - mean) / std


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(300, 300), (240, 517), (517, 240), (100, 133), (1, 7), (301, 1204)])
def test_agrees_with_torchvision_at_square_sizes(size: tuple[int, int], interpolation: str) -> None:
    pixels = colours(*size)
    preprocessing = replace(IMAGENET, interpolation=interpolation)
    filter_ = Image.Resampling[interpolation.upper()]
    for side, resize in ((224, 256), (225, 257), (96, 109), (33, 37)):  # side * 256 / 224, rounded down
        result = preprocess(Image.fromarray(pixels), preprocessing, (side, side))
        assert result.shape == (3, side, side)
        assert result.dtype == np.float32
        assert result.flags.c_contiguous
        assert np.array_equal(result, torchvision_rule(pixels, resize, side, filter_))


def test_pixels_of_the_right_size_are_only_normalised() -> None:
    pixels = colours(32, 32)
    result = preprocess(Image.fromarray(pixels), PLAIN, (32, 32))
    assert np.array_equal(result, pixels.transpose(2, 0, 1) / np.float32(255))


def test_normalisation_by_hand() -> None:
    image = Image.new("RGB", (32, 32), (0, 51, 255))
    result = preprocess(image, replace(PLAIN, mean=(0.5, 0.2, 0.25), std=(0.5, 1.0, 0.125)), (32, 32))
    assert result[:, 0, 0] == pytest.approx([-1.0, 0.0, 6.0])
    assert (result == result[:, :1, :1]).all()


def test_crop_takes_the_centre_and_rounds_half_to_even() -> None:
    for width, left in ((33, 0), (34, 1), (35, 2), (36, 2), (37, 2)):
        pixels = colours(32, width)
        result = preprocess(Image.fromarray(pixels), PLAIN, (32, 32))
        assert np.array_equal(result, pixels[:, left : left + 32].transpose(2, 0, 1) / np.float32(255))


def test_nearest_doubles_each_pixel() -> None:
    pixels = colours(16, 16)
    result = preprocess(Image.fromarray(pixels), PLAIN, (32, 32))
    doubled = pixels.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(result, doubled.transpose(2, 0, 1) / np.float32(255))


@pytest.mark.parametrize(
    ("source", "image_size", "scaled"),
    [
        # (height, width) each; the box is 8/7 of the image size
        ((100, 400), (56, 112), (64, 256)),  # wider than the box: its height decides
        ((400, 100), (56, 112), (512, 128)),  # taller: its width decides
        ((400, 100), (112, 56), (256, 64)),
        ((100, 201), (56, 112), (64, 128)),  # nearly of its shape: 128.6 is rounded down
        ((100, 100), (33, 47), (53, 53)),  # the box of 37.7 x 53.7 is rounded down as well
    ],
)
def test_non_square_sizes_cover_the_box(
    source: tuple[int, int], image_size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    pixels, (height, width) = colours(*source), image_size
    resized = Image.fromarray(pixels).resize(scaled[::-1], Image.Resampling.BICUBIC)
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    expected = np.asarray(resized)[top : top + height, left : left + width].transpose(2, 0, 1) / np.float32(255)
    preprocessing = replace(PLAIN, resize=256, crop=224, interpolation="bicubic")
    assert np.array_equal(preprocess(Image.fromarray(pixels), preprocessing, image_size), expected)


def test_the_whole_crop_lies_inside_of_the_image() -> None:
    random = np.random.default_rng(0)
    white = replace(PLAIN, resize=225, crop=224, interpolation="bilinear")
    for _ in range(100):
        source, image_size = random.integers(1, 99, 2).tolist(), random.integers(32, 99, 2).tolist()
        result = preprocess(Image.new("RGB", source, "white"), white, (image_size[0], image_size[1]))
        assert result.shape == (3, *image_size)
        assert (result == 1).all()  # outside of an image, pillow crops black


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1)])
def test_thin_image_is_refused(size: tuple[int, int]) -> None:
    words = "would be resized to"
    assert_refused(ImageError, 4, words, lambda: preprocess(Image.new("RGB", size), IMAGENET, (224, 224)))


def test_resized_pixels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (1, 10_000))
    monkeypatch.setattr(module, "MAX_PIXELS", 32 * 320_000)
    assert preprocess(image, PLAIN, (32, 32)).shape == (3, 32, 32)
    monkeypatch.setattr(module, "MAX_PIXELS", 32 * 320_000 - 1)
    words = "an image of 1x10000 pixels would be resized to 32x320000 to cover 32x32; allowed are 10239999"
    assert_refused(ImageError, 4, words, lambda: preprocess(image, PLAIN, (32, 32)))


@pytest.mark.parametrize("image_size", [(0, 32), (32, -1), (31, 32), (32, 4097)])
def test_image_size_out_of_range(image_size: tuple[int, int]) -> None:
    assert_refused(UsageError, 2, "--image-size", lambda: preprocess(Image.new("RGB", (4, 4)), PLAIN, image_size))


def test_image_of_another_mode() -> None:
    assert_refused(ImageError, 4, "mode 'L'", lambda: preprocess(Image.new("L", (32, 32)), PLAIN, (32, 32)))


# ----------------------------------------------------------------------------------------- batches


def test_batch_is_the_images_in_order(tmp_path: Path) -> None:
    images = [Image.fromarray(colours(40, 60 + i)) for i in range(3)]
    paths = [image_file(tmp_path, f"{i}.png", image) for i, image in enumerate(images)]
    batch = load_batch([paths[2], str(paths[0]), paths[1]], IMAGENET, (32, 48))
    assert batch.shape == (3, 3, 32, 48)
    assert batch.dtype == np.float32
    for row, i in zip(batch, (2, 0, 1), strict=True):
        assert np.array_equal(row, preprocess(images[i], IMAGENET, (32, 48)))


def test_bytes_are_what_is_normalised(tmp_path: Path) -> None:
    paths = [image_file(tmp_path, f"{i}.png", Image.fromarray(colours(40 + i, 90))) for i in range(3)]
    for size in ((224, 224), (64, 96)):
        pixels = load_batch(paths, IMAGENET, size, "uint8")
        assert (pixels.shape, pixels.dtype) == ((3, *size, 3), np.uint8)
        floats = load_batch(paths, IMAGENET, size)
        for path, bytes_, values in zip(paths, pixels, floats, strict=True):
            assert np.array_equal(resize_and_crop(read_image(path), IMAGENET, size), bytes_)
            assert np.array_equal(normalise(bytes_, IMAGENET), values)


def test_batch_names_the_image_that_it_refuses(tmp_path: Path) -> None:
    good = image_file(tmp_path, "good.png", Image.new("RGB", (40, 40)))
    thin = image_file(tmp_path, "thin.png", Image.new("RGB", (1, 500_000)))
    assert_refused(ImageError, 4, "thin.png': an image of 1x500000", lambda: load_batch([good, thin], PLAIN, (32, 32)))
    assert_refused(UsageError, 2, "none.png", lambda: load_batch([good, tmp_path / "none.png"], PLAIN, (32, 32)))


def test_empty_batch() -> None:
    assert_refused(UsageError, 2, "no images", lambda: load_batch([], PLAIN, (32, 32)))
