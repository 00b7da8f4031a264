"""Routing by copying whole regions: one index select of contiguous rows.

Regions of all images and heads lie on one axis (N*M*R), so the routes become row numbers and the copy
moves rows of (tokens x head width) numbers. `torch.gather` with an index expanded over tokens and
channels, as in the released code, needs one index per number instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.static.ops.routing.base import Routing
from debiexport.static.ops.routing.heads import merge_heads, split_heads
from debiexport.static.taps import Taps


class GatherRouting(Routing):
    """Tokens in region order: regions row-major, tokens inside a region row-major."""

    exposes = (AFFINITY, ROUTES)
    head_rows: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or why this implementation cannot serve the geometry."""
        return None

    def __init__(self, geometry: AttentionGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        heads, regions = geometry.heads, geometry.region_count
        self.register_buffer("head_rows", (torch.arange(heads) * regions).view(1, heads, 1, 1))

    def arrange(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, R*T, C) in region order."""
        s = self.geometry.regions
        height, width, channels = x.shape[1:]
        # As rows of w*C numbers this is a swap of two axes: contiguous moves.
        x = x.reshape(-1, s, height // s, s, width // s * channels).transpose(2, 3)
        return x.reshape(-1, height * width, channels)

    def restore(self, x: Tensor) -> Tensor:
        """(N, R*T, C) in region order of those who route -> their map (N, H, W, C)."""
        s, channels = self.geometry.regions, self.geometry.channels
        height, width = self.geometry.query_size
        x = x.reshape(-1, s, s, height // s, width // s * channels).transpose(2, 3)
        return x.reshape(-1, height, width, channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """q (N, R*Tq, C), scaled; k, v (N, R*Tk, C), all in region order -> (N, R*Tq, C)."""
        g = self.geometry
        r, m, d, topk = g.region_count, g.heads, g.head_width, g.top_k
        tq, tk = (size[0] * size[1] // r for size in (g.query_size, g.padded_size))

        def describe(x: Tensor, tokens: int) -> Tensor:  # mean over each region: (N, R, C)
            regions = x.reshape(-1, r, tokens, g.channels)
            return regions.mean(2) if tokens > 1 else regions.squeeze(2)

        affinity = taps.record(f"{g.name}.{AFFINITY}", describe(q, tq) @ describe(k, tk).transpose(-2, -1))
        routes = taps.record(f"{g.name}.{ROUTES}", affinity.topk(topk, dim=-1).indices)  # (N, R, topk)

        images = torch.arange(q.shape[0], device=q.device) * (m * r)
        rows = (routes.unsqueeze(1) + self.head_rows + images.view(-1, 1, 1, 1)).flatten()

        def gather(x: Tensor) -> Tensor:  # (N, R*Tk, C) -> (N, M, R, topk*Tk, d)
            by_head = split_heads(x, m, r * tk, d).reshape(-1, tk * d)
            return by_head.index_select(0, rows).reshape(-1, m, r, topk * tk, d)

        queries = split_heads(q, m, r * tq, d).reshape(-1, m, r, tq, d)
        out = (queries @ gather(k).transpose(-2, -1)).softmax(-1) @ gather(v)
        return merge_heads(out.reshape(-1, m, r * tq, d), m, r * tq, d)
