"""Routing window by window: the tokens of a region meet those of the regions that it is routed to, and no others.

A window is a region's tokens of all channels. Windows are chosen as rows of a matrix: by a product with a one-hot
matrix, which takes no index, or by their indices.
"""

from __future__ import annotations

from abc import abstractmethod
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.names import AFFINITY, ROUTES
from debiexport.static.ops.heads import Heads
from debiexport.static.ops.routing.affinity import affinities
from debiexport.static.ops.routing.channels.base import ChannelRouting
from debiexport.static.ops.routing.ranks import Ranks, refusal
from debiexport.static.taps import Taps


class Windows(nn.Module):
    """A map (N, C, H, W) as windows (N, C*T, R), tokens inside a region row-major, and back.

    Args:
        size: (H, W).
        regions: S, which divides both.
    """

    def __init__(self, size: tuple[int, int], regions: int) -> None:
        super().__init__()
        self.size, self.regions = size, regions
        self.height, self.width = (side // regions for side in size)
        self.tokens, self.count = self.height * self.width, regions**2

    def split(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C*T, R)"""
        channels, s = x.shape[1], self.regions
        if self.tokens == 1:
            return x.flatten(2)
        if self.height == self.width:  # one operation on most targets
            return F.pixel_unshuffle(x, self.height).flatten(2)
        x = x.reshape(-1, s, self.width).transpose(1, 2)  # of a line: (N*C*S*h, w, S)
        x = x.reshape(-1, s, self.tokens, s).transpose(1, 2)  # (N*C, T, S, S)
        return x.reshape(-1, channels * self.tokens, self.count)

    def merge(self, x: Tensor) -> Tensor:
        """(N, C*T, R) -> (N, C, H, W)"""
        channels, s = x.shape[1] // self.tokens, self.regions
        if self.tokens == 1:
            return x.reshape(-1, channels, *self.size)
        if self.height == self.width:
            return F.pixel_shuffle(x.reshape(-1, x.shape[1], s, s), self.height)
        x = x.reshape(-1, self.tokens, s, s).transpose(1, 2)  # (N*C, S, T, S)
        x = x.reshape(-1, self.width, s).transpose(1, 2)
        return x.reshape(-1, channels, *self.size)


class WindowRouting(ChannelRouting):
    """What both ways of choosing share."""

    exposes = (AFFINITY, ROUTES)

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        self.query_windows = Windows(geometry.query_size, geometry.regions)
        self.key_windows = Windows(geometry.padded_size, geometry.regions)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, taps: Taps) -> Tensor:
        """See `Routing.forward`."""
        g = self.geometry
        m, d = g.heads, g.head_width
        affinity = taps.record(f"{g.name}.{AFFINITY}", affinities(q, k, g.regions))
        routes = self.choose(affinity, taps)

        tokens = self.query_windows.tokens
        q = self.query_windows.split(q).transpose(1, 2).reshape(-1, d, m, tokens)  # (N*R, d, M, T)
        k, v = (self._chosen(x, routes) for x in (k, v))
        out = self.attend(q, k, v).reshape(-1, g.region_count, g.channels * tokens)
        return self.query_windows.merge(out.transpose(1, 2))

    def _chosen(self, x: Tensor, routes: Tensor) -> Tensor:
        """A map (N, C, H, W) -> tokens of the chosen windows (N*R, d, M, k*T)."""
        g, tokens = self.geometry, self.key_windows.tokens
        x = self.select(self.key_windows.split(x), routes)  # (N*R, k, C*T)
        if g.top_k > 1:
            x = x.reshape(-1, g.top_k, g.channels, tokens).transpose(1, 2)  # (N*R, C, k, T)
        return x.reshape(-1, g.head_width, g.heads, g.top_k * tokens)

    @abstractmethod
    def choose(self, affinity: Tensor, taps: Taps) -> Tensor:
        """Affinity (N, R, R) -> what `select` takes, recorded as the routes."""

    @abstractmethod
    def select(self, windows: Tensor, routes: Tensor) -> Tensor:
        """Windows (N, C*T, R) -> those chosen, (N*R, k, C*T)."""


class OneHotWindows(WindowRouting):
    """Windows chosen by a product; the routes are one-hot rows (N, R, k, R) of floats, best first."""

    places: Tensor

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or that ranking by counting would take too much memory."""
        return refusal(geometry)

    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__(geometry, heads)
        self.rank = Ranks(geometry.region_count)
        self.register_buffer("places", torch.arange(geometry.top_k, dtype=torch.float32).reshape(1, 1, -1, 1))

    def choose(self, affinity: Tensor, taps: Taps) -> Tensor:
        """See `WindowRouting.choose`."""
        dtype = affinity.dtype
        rows = (self.rank(affinity).unsqueeze(2) == self.places.to(dtype)).to(dtype)
        return taps.record(f"{self.geometry.name}.{ROUTES}", rows)

    def select(self, windows: Tensor, routes: Tensor) -> Tensor:
        """See `WindowRouting.select`."""
        g = self.geometry
        rows = routes.reshape(-1, g.region_count * g.top_k, g.region_count) @ windows.transpose(1, 2)
        return rows.reshape(-1, g.top_k, windows.shape[1])


class IndexedWindows(WindowRouting):
    """Windows chosen by their indices: a top-k and a gather of rows."""

    def choose(self, affinity: Tensor, taps: Taps) -> Tensor:
        """See `WindowRouting.choose`."""
        routes = affinity.topk(self.geometry.top_k, dim=-1).indices  # (N, R, k)
        return taps.record(f"{self.geometry.name}.{ROUTES}", routes)

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None: every geometry is served."""
        return None

    def select(self, windows: Tensor, routes: Tensor) -> Tensor:
        """See `WindowRouting.select`."""
        g = self.geometry
        count, width = windows.shape[0], windows.shape[1]
        rows = windows.transpose(1, 2).reshape(-1, width)  # (N*R, C*T)
        if count > 1:
            routes = routes + (torch.arange(count, device=routes.device) * g.region_count).view(-1, 1, 1)
        return rows.index_select(0, routes.flatten()).reshape(-1, g.top_k, width)


def window_numbers(geometry: AttentionGeometry) -> int:
    """Numbers of the largest tensor of an image: the chosen keys, or the scores."""
    keys = geometry.top_k * prod(geometry.region_size)
    chosen = geometry.region_count * keys * geometry.channels
    return max(chosen, geometry.heads * prod(geometry.query_size) * keys)
