"""The heads slot: how a map's channels become heads and its tokens an order, see `base` and `order`."""

from __future__ import annotations

from debiexport.static.ops.heads.base import Heads
from debiexport.static.ops.heads.interleaved import InterleavedHeads
from debiexport.static.ops.heads.permute import PermutedHeads
from debiexport.static.ops.heads.rows import RowHeads

IMPLEMENTATIONS: dict[str, type[Heads]] = {
    "interleaved": InterleavedHeads,
    "permute": PermutedHeads,
    "rows": RowHeads,
}

__all__ = ["IMPLEMENTATIONS", "Heads", "InterleavedHeads", "PermutedHeads", "RowHeads"]
