"""coremltools' chatter kept to itself: it warns of versions, of libraries that only macOS has, and draws bars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from debiexport.targets.quiet import no_chatter


@contextmanager
def quiet_coremltools() -> Iterator[None]:
    """Silence coremltools while the block runs; its errors are still raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with no_chatter():
            yield
    finally:
        logging.disable(disabled)
