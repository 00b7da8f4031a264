"""Splitting a map's channels into heads, and its tokens into regions, and back; rows of d numbers move whole."""

from __future__ import annotations

from torch import Tensor


def split_heads(x: Tensor, heads: int, tokens: int, width: int) -> Tensor:
    """A map (N, H, W, M*d) -> (N, M, H*W, d)."""
    return x.reshape(-1, tokens, heads, width).transpose(1, 2)


def merge_heads(x: Tensor, heads: int, size: tuple[int, int], width: int) -> Tensor:
    """(N, M, H*W, d) -> a map (N, H, W, M*d)."""
    return x.transpose(1, 2).reshape(-1, *size, heads * width)


def split_regions(x: Tensor, heads: int, size: tuple[int, int], regions: int, width: int) -> Tensor:
    """A map (N, H, W, M*d) -> (N, M, S*S, h*w, d): regions row-major, tokens inside a region row-major."""
    h, w = size[0] // regions, size[1] // regions
    if (h, w) == (1, 1):  # one token a region: its order is the map's
        return x.reshape(-1, regions**2, heads, width).transpose(1, 2).unsqueeze(3)
    tiles = x.reshape(-1, regions, h, regions, w, heads, width).permute(0, 5, 1, 3, 2, 4, 6)
    return tiles.reshape(-1, heads, regions**2, h * w, width)


def split_interleaved(x: Tensor, heads: int, size: tuple[int, int], regions: int, width: int) -> Tensor:
    """A map (N, H, W, M*d) -> (N, M, h*w, S*S, d): the same tokens of every region side by side."""
    h, w = size[0] // regions, size[1] // regions
    tiles = x.reshape(-1, regions, h, regions, w, heads, width).permute(0, 5, 2, 4, 1, 3, 6)
    return tiles.reshape(-1, heads, h * w, regions**2, width)


def merge_regions(x: Tensor, heads: int, size: tuple[int, int], regions: int, width: int) -> Tensor:
    """(N, M, S*S, h*w, d) -> a map (N, H, W, M*d)."""
    h, w = size[0] // regions, size[1] // regions
    if (h, w) == (1, 1):
        return x.reshape(-1, heads, regions**2, width).transpose(1, 2).reshape(-1, *size, heads * width)
    tiles = x.reshape(-1, heads, regions, regions, h, w, width).permute(0, 2, 4, 3, 5, 1, 6)
    return tiles.reshape(-1, *size, heads * width)
