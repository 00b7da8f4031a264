"""The plugins for TensorRT: what has to be called before a network with their nodes is parsed."""

from __future__ import annotations

from typing import Any

from debiexport.errors import MissingDependencyError

from .agent_attention import aot as agent_attention
from .region_attention import aot as region_attention


def register_plugins(trt: Any, trtp: Any) -> None:
    """Make both plugins known to TensorRT; once they are, nothing happens.

    Args:
        trt: the module tensorrt.
        trtp: the module tensorrt.plugin.

    Raises:
        MissingDependencyError: this TensorRT embeds no kernels in engines.
    """
    if not hasattr(trt, "QuickPluginCreationRequest"):
        raise MissingDependencyError(
            f"TensorRT {trt.__version__} embeds no plugin's kernel in an engine: install 10.9 or newer, or export"
            " without the plugins"
        )
    region_attention.register(trtp)
    agent_attention.register(trtp)
