"""Agent attention ahead of time: TensorRT embeds the kernel in the engine, as PTX."""

from __future__ import annotations

from typing import Any

from ..ahead_of_time import register_ahead_of_time
from .interface import INTERFACE


def register(trtp: Any) -> None:
    """Make the plugin known to TensorRT; once it is, nothing happens.

    Args:
        trtp: the module tensorrt.plugin.
    """
    register_ahead_of_time(trtp, INTERFACE, _kernel)


def _kernel() -> Any:
    from .kernel import agent_attention_kernel

    return agent_attention_kernel
