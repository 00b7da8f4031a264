"""The exporter's chatter kept to itself."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence torch.onnx while the block runs: it warns of its own internals and of an absent torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with no_chatter():
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def no_chatter() -> Iterator[None]:
    """Keep warnings and whatever is printed to oneself while the block runs; errors are still raised."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
