"""Orders of a map's tokens and heads: which axes a map (H, W, M) falls into, and how they are moved.

Rows of d numbers, one head of one token, move whole: what is reordered are the H*W*M rows of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Order:
    """A reordering of the rows of a map.

    Attributes:
        size: (H, W) of the map.
        heads: M.
        axes: sizes into which (H, W, M) falls, row-major.
        moved: the axes in their new order.
        lead: sizes of the result before its last axis, d.
    """

    size: tuple[int, int]
    heads: int
    axes: tuple[int, ...]
    moved: tuple[int, ...]
    lead: tuple[int, ...]

    @property
    def rows(self) -> int:
        return prod(self.axes)

    def simplified(self) -> Order:
        """The same reordering with as few axes as it needs: none of size 1, and neighbours that stay neighbours joined.

        A transpose gets slower with every axis, and some targets take no more than five.
        """
        moved = [axis for axis in self.moved if self.axes[axis] > 1]
        runs: list[list[int]] = []
        for axis in moved:
            if runs and self._follows(runs[-1][-1], axis):
                runs[-1].append(axis)
            else:
                runs.append([axis])
        by_place = sorted(range(len(runs)), key=lambda run: runs[run][0])
        axes = tuple(prod(self.axes[axis] for axis in runs[run]) for run in by_place)
        return Order(self.size, self.heads, axes, tuple(by_place.index(run) for run in range(len(runs))), self.lead)

    def _follows(self, axis: int, other: int) -> bool:
        """Whether `other` is the next axis after `axis`, but for axes of size 1."""
        return axis < other and all(self.axes[between] == 1 for between in range(axis + 1, other))


def by_head(size: tuple[int, int], heads: int) -> Order:
    """(M, H*W): the tokens of each head in the map's order."""
    tokens = prod(size)
    return Order(size, heads, (tokens, heads), (1, 0), (heads, tokens)).simplified()


def by_region(size: tuple[int, int], heads: int, regions: int) -> Order:
    """(M, S*S, h*w): regions row-major, tokens inside a region row-major."""
    h, w = size[0] // regions, size[1] // regions
    lead = (heads, regions**2, h * w)
    return Order(size, heads, (regions, h, regions, w, heads), (4, 0, 2, 1, 3), lead).simplified()
