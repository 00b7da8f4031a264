"""Image files in batches that a model takes, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from debiexport.errors import ImageError, UsageError
from debiexport.runtimes.base import Array

IMAGES_AT_ONCE = 8  # in memory, where the batch is dynamic


@dataclass(frozen=True)
class ImageFailure:
    """A file that could not be used: its path, one line that says why, and the exit code of that error."""

    image: str
    reason: str
    exit_code: int

    def to_dict(self) -> dict[str, Any]:
        return {"image": self.image, "reason": self.reason}

    def __str__(self) -> str:
        return self.reason


def image_batches(
    files: Sequence[str | Path],
    load: Callable[[str | Path], Array],
    failures: list[ImageFailure] | None,
    *,
    batch: int | None,
    at_most: int = IMAGES_AT_ONCE,
) -> Iterator[tuple[list[int], Array]]:
    """Positions of files, and their images stacked.

    Args:
        files: in order.
        load: reads one.
        failures: a file that cannot be used is left out and appended here; where this is None, it is raised.
        batch: images that the model takes at a time, or None for any number. A short batch is filled up with its last
            image, so there are more images than positions.
        at_most: images of a batch where any number is taken.

    Raises:
        UsageError, ImageError: of `load`.
    """
    positions: list[int] = []
    images: list[Array] = []
    for position, file in enumerate(files):
        try:
            images.append(load(file))
            positions.append(position)
        except (ImageError, UsageError) as error:
            if failures is None:
                raise
            failures.append(ImageFailure(str(file), str(error), error.exit_code))
        if images and (len(images) == (batch or at_most) or position == len(files) - 1):
            yield positions, np.stack(images + images[-1:] * ((batch or 0) - len(images)))
            positions, images = [], []
