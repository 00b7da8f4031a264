"""coremltools' chatter kept to itself: it warns of versions, of libraries that only macOS has, and draws bars."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet_coremltools() -> Iterator[None]:
    """Silence coremltools while the block runs; its errors are still raised."""
    logger = logging.getLogger("coremltools")
    disabled, level = logging.root.manager.disable, logger.level
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logger.setLevel(level)
