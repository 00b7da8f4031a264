"""Heads on an axis of their own behind the channels of one head: (N, C, H, W) is (N, d, M, H*W) without a move.

For that the heads have to be innermost in the channels of queries, keys and values: the rows and columns of the
projections around attention are put in that order beforehand. A product over d, with positions of the one side on
axis 1 and of the other on the last, is then one einsum `nchw,nwhu->nchu`, and its softmax is over axis 1.

Where a group of heads shares the positions of its agents, groups lie on the first axis: (N*G, d, M/G, H*W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.heads.base import Heads
from debiexport.static.ops.heads.order import Order
from debiexport.static.weights import Weights

Moves = dict[str, tuple[int, Tensor]]
"""Axis and order by the name of a weight."""


class InterleavedHeads(Heads):
    """Heads of maps (N, C, H, W), their tokens in the map's order.

    Args:
        order: by head.
        width: d.
        groups: G.
    """

    format = "nchw"

    def __init__(self, order: Order, width: int, groups: int = 1) -> None:
        super().__init__(order, width)
        self.group_heads, self.tokens = order.heads // groups, order.size[0] * order.size[1]

    def split(self, x: Tensor) -> Tensor:
        """A map (N, G*d*M/G, H, W) -> (N*G, d, M/G, H*W)."""
        return x.reshape(-1, self.width, self.group_heads, self.tokens)

    def merge(self, x: Tensor) -> Tensor:
        """(N*G, d, M/G, H*W) -> a map (N, G*d*M/G, H, W)."""
        return x.reshape(-1, self.width * self.order.heads, *self.order.size)

    @staticmethod
    def arrange(weights: Weights, geometry: AttentionGeometry) -> Weights:
        """See `Heads.arrange`.

        Two sets of channels are independent of each other: of those who route (agents or tokens) and their keys, and,
        in DBRA, of the tokens' queries and the agents that they attend to. The latter keep the groups outermost.
        """
        if geometry.kind == "full":  # the local enhancement of its input is added in the checkpoint's order
            return _reordered(weights, _rows("qkv", channels(geometry)))
        routed = channels(geometry)
        if geometry.kind == "bra":
            return _reordered(weights, {**_rows(("q", "k", "v", "lepe"), routed), "proj.weight": (1, routed)})
        groups = geometry.stage.offset_groups
        assert groups
        grouped = channels(geometry, groups)
        inside = grouped[: len(grouped) // groups]  # of one group
        return _reordered(
            weights,
            {
                **_rows(("k", "v", "lepe", "agent_q"), routed),
                "unify.weight": (1, routed),
                **_rows(("q", "agent_k", "agent_v"), grouped),
                **_rows(("offset.conv", "offset.norm"), inside),
                "offset.pointwise.weight": (1, inside),
                "proj.weight": (1, grouped),
            },
        )


def channels(geometry: AttentionGeometry, groups: int = 1) -> Tensor:
    """Place in the checkpoint's order (G, M/G, d) of each channel in the order (G, d, M/G)."""
    places = torch.arange(geometry.channels).reshape(groups, geometry.heads // groups, geometry.head_width)
    return places.transpose(1, 2).flatten()


def _rows(layers: Sequence[str], order: Tensor) -> Moves:
    return {f"{layer}.{part}": (0, order) for layer in layers for part in ("weight", "bias")}


def _reordered(weights: Weights, moves: Moves) -> Weights:
    tensors = dict(weights)
    for name, (axis, order) in moves.items():
        if name in tensors:
            tensors[name] = tensors[name].index_select(axis, order)
    return Weights(tensors)
