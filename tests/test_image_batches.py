from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from debiexport.errors import ImageError
from debiexport.image_batches import ImageFailure, image_batches
from debiexport.runtimes.base import Array


def load(file: str | Path) -> Array:
    """An image of one number, that of its name."""
    if file == "bad":
        raise ImageError("bad is no image")
    return np.full((1,), float(str(file)), np.float32)


def batches(
    *files: str, failures: list[ImageFailure] | None = None, **how: int | None
) -> list[tuple[list[int], list[float]]]:
    found = image_batches(files, load, failures, **{"batch": None, **how})  # type: ignore[arg-type]
    return [(positions, images[:, 0].tolist()) for positions, images in found]


def test_any_number() -> None:
    assert batches("5", "6", "7", at_most=2) == [([0, 1], [5, 6]), ([2], [7])]
    assert [len(positions) for positions, _ in batches(*map(str, range(17)))] == [8, 8, 1]
    assert batches() == []


def test_a_fixed_batch_is_filled_up() -> None:
    assert batches("5", "6", "7", batch=2) == [([0, 1], [5, 6]), ([2], [7, 7])]


@pytest.mark.parametrize("position", range(4))
def test_a_file_that_cannot_be_used_is_left_out(position: int) -> None:
    files = ["5", "6", "7"]
    files.insert(position, "bad")
    failures: list[ImageFailure] = []
    found = batches(*files, failures=failures, batch=2)
    assert [files[at] for positions, _ in found for at in positions] == ["5", "6", "7"]
    assert [images for _, images in found] == [[5, 6], [7, 7]]
    assert failures == [ImageFailure("bad", "bad is no image", ImageError.exit_code)]


def test_only_files_that_cannot_be_used() -> None:
    failures: list[ImageFailure] = []
    assert batches("bad", "bad", failures=failures) == []
    assert len(failures) == 2


def test_or_it_is_raised() -> None:
    with pytest.raises(ImageError, match="bad is no image"):
        batches("5", "bad", "6")
