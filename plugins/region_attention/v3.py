"""Region attention's twin for builds that check a graph on a machine without a GPU."""

from __future__ import annotations

from typing import Any

from ..twin import Refuse, twin_creator
from .interface import INTERFACE


def creator(trt: Any, refuse: Refuse) -> Any:
    """See `twin_creator`."""
    return twin_creator(trt, INTERFACE, refuse)
