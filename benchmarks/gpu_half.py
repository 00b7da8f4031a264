"""The static network in float16 in torch, with the types that the typed graph has.

`debiexport.graph.typed` writes a precision into an exported model: products and convolutions in float16, and what must
not be rounded so in float32. The same is done here to the modules, so that the figures are about the network that is
deployed: `network.half()` alone would round positions, affinities and the bias table, and `torch.autocast` chooses by
operation, without knowing what an operation is for. In float32 stay, as in `graph/typed/islands.py`:

    affinities and top-k              from the queries and keys on
    offsets and positions             from the norm of the offset network on
    sampling weights, the bias        whatever computes them
    scores with a bias, softmax       torch's softmax and norms of float16 compute in float32 by themselves

Images and outputs are float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from debiexport.errors import UsageError
from debiexport.lowerings import TENSORRT_LOWERINGS
from debiexport.static.attention import StaticDBRA
from debiexport.static.network import StaticNetwork
from debiexport.static.ops.bias.fused import FusedBias
from debiexport.static.ops.bias.hat import HatBias
from debiexport.static.ops.broadcast.fused import FusedBroadcast
from debiexport.static.ops.broadcast.rows import RowBroadcast
from debiexport.static.ops.routing import fused, gather
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.sampling.hat import HatSampling
from debiexport.static.taps import Taps

_FLOAT32 = ("offset.norm", "offset.pointwise", "positions", "sampling.weights", "bias")
_KNOWN = {"sampling": (HatSampling,), "bias": (HatBias, FusedBias), "broadcast": (RowBroadcast, FusedBroadcast)}
_AFFINITIES = "affinities"


class HalfNetwork(nn.Module):
    """A static network in float16.

    Args:
        network: float32, in a lowering for TensorRT; it is changed.

    Raises:
        UsageError: the lowering is another.
    """

    def __init__(self, network: StaticNetwork) -> None:
        super().__init__()
        attentions = [module for module in network.modules() if isinstance(module, StaticDBRA)]
        for attention in attentions:
            _check(attention)
        wide = [{name: copy.deepcopy(attention.get_submodule(name)) for name in _FLOAT32} for attention in attentions]
        self.network = network.half()
        for attention, modules in zip(attentions, wide, strict=True):
            for name, module in modules.items():
                attention.set_submodule(name, module)
            attention.offset.norm.register_forward_pre_hook(_widen)
            attention.get_submodule("sampling.weights").register_forward_hook(_narrow)
            if isinstance(attention.broadcast, RowBroadcast):
                attention.broadcast = TypedRows(attention.geometry, type(attention.broadcast.tokens))

    def outputs(self, images: Tensor, taps: Taps) -> tuple[Tensor, ...]:
        """See `StaticNetwork.outputs`."""
        with float32_affinities():
            return tuple(x.float() for x in self.network.outputs(images.half(), taps))


class TypedRows(RowBroadcast):
    """Products in float16, the scores with their bias and the softmax in float32."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """See `RowBroadcast.forward`; the bias is float32, the rest float16."""
        k, v = self.agents.split(k), self.agents.split(v)  # (N, M, n, d)
        q = q.reshape(-1, self.heads, self.width, q.shape[-2] * q.shape[-1]).transpose(-2, -1)  # (N, M, HW, d)
        scores = q @ k.transpose(-2, -1) + bias  # float32, as the wider of both
        return self.tokens.merge(scores.softmax(-1).to(v.dtype) @ v)


@contextmanager
def float32_affinities() -> Iterator[None]:
    """Let regions be compared in float32 while the block runs."""

    def wide(q: Tensor, k: Tensor, regions: int) -> Tensor:
        return affinities(q.float(), k.float(), regions)

    modules = (gather, fused)
    try:
        for module in modules:
            setattr(module, _AFFINITIES, wide)
        yield
    finally:
        for module in modules:
            setattr(module, _AFFINITIES, affinities)


def _widen(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in inputs)


def _narrow(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.to(torch.float16)


def _check(attention: StaticDBRA) -> None:
    for slot, kinds in _KNOWN.items():
        if not isinstance(found := getattr(attention, slot), kinds):
            raise UsageError(
                f"{slot} by {type(found).__name__} has no types of its own in float16: choose one of the lowerings"
                f" {', '.join(TENSORRT_LOWERINGS)}"
            )
