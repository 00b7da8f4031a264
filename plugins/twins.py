"""The plugins' twins: what has to be called before TensorRT for RTX parses a network with the plugins' nodes."""

from __future__ import annotations

from typing import Any

from .agent_attention import v3 as agent_attention
from .interface import NAMESPACE
from .region_attention import v3 as region_attention

_registered: dict[str, tuple[list[Any], list[str]]] = {}
"""Creators, which have to live as long as the registry, and reasons of refusals, by the name of the module."""


def register_twins(trt: Any) -> list[str]:
    """Make both twins known to TensorRT; once they are, nothing happens.

    Args:
        trt: the module tensorrt_rtx, or tensorrt.

    Returns:
        Filled while networks are parsed: why nodes were refused, one line each with the node's name. TensorRT's own
        errors do not say.
    """
    if trt.__name__ not in _registered:
        refusals: list[str] = []

        def refuse(reason: str) -> None:
            if reason not in refusals:  # a node is asked several times
                refusals.append(reason)

        creators = [plugin.creator(trt, refuse) for plugin in (region_attention, agent_attention)]
        registry = trt.get_plugin_registry()
        for creator in creators:
            registry.register_creator(creator, NAMESPACE)
        _registered[trt.__name__] = creators, refusals
    return _registered[trt.__name__][1]
