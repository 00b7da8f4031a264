"""Agent attention's twin for builds that check a graph on a machine without a GPU."""

from __future__ import annotations

from typing import Any

from debiexport.plugins.agent_attention.interface import INTERFACE
from debiexport.plugins.twin import Refuse, twin_creator


def creator(trt: Any, refuse: Refuse) -> Any:
    """See `twin_creator`."""
    return twin_creator(trt, INTERFACE, refuse)
