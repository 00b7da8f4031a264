"""What the routings of this family share: attention as two einsums with softmax over the channel axis."""

from __future__ import annotations

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.broadcast.channels import PRODUCT
from debiexport.static.ops.heads import Heads, InterleavedHeads
from debiexport.static.ops.heads.order import by_head
from debiexport.static.ops.routing.base import Routing


class ChannelRouting(Routing):
    """Maps (N, C, H, W) in and out, their channels (d, M)."""

    format = "nchw"

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        g = geometry
        self.queries = InterleavedHeads(by_head(g.query_size, g.heads), g.head_width)
        self.keys = InterleavedHeads(by_head(g.padded_size, g.heads), g.head_width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, d, M, Q), keys and values (B, d, M, K), a mask (B, K, 1, Q) to add -> (B, d, M, Q)."""
        scores = torch.einsum(PRODUCT, k.permute(0, 3, 2, 1), q)  # (B, K, M, Q)
        if mask is not None:
            scores = scores + mask
        return torch.einsum(PRODUCT, v, scores.softmax(1))

    def attend_densely(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Every query of a map against every key of a map -> a map."""
        out = self.attend(self.queries.split(q), self.keys.split(k), self.keys.split(v), mask)
        if self.geometry.kind == "full":  # what is added to it has its channels in the checkpoint's order
            out = out.transpose(1, 2)
        return self.queries.merge(out)
