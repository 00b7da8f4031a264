"""The static sizes of one use of region attention, and how its kernel is launched for them.

Known without torch and Triton: the same object serves a launch from torch, the compilation to PTX and TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from debiexport.errors import UsageError

from ..limits import (
    ELEMENT_BYTES,
    HEAD_WIDTHS,
    MATRIX_SIDE,
    MAX_GRID,
    MAX_IMAGE_ELEMENTS,
    MAX_SHARED_MEMORY_BYTES,
    power_of_two,
    shown,
)

_LOAD_BYTES = 16  # the most that a lane loads at once
_LANES = 32  # of a warp
_LANE_NUMBERS = 32  # of keys, and as many of values, that the registers of a lane hold beside the rest


@dataclass(frozen=True)
class Configuration:
    """Upper limits of a program; what a use needs or shared memory holds may be less.

    Attributes:
        queries, keys: tokens of a block, powers of two; a query alone in its tile has as many keys as registers hold.
        warps: that share a block; in float32 at least four do.
    """

    queries: int
    keys: int
    warps: int


CONFIGURATIONS = (
    # Four times 16 queries, the rows of a tensor core's product: each warp keeps the softmax of its own.
    Configuration(queries=64, keys=64, warps=4),
    # Smaller programs, and more of them: for few images, where large ones would leave multiprocessors idle.
    Configuration(queries=32, keys=32, warps=2),
    # Many keys at a time: for agents, few queries that attend to hundreds of tokens and wait for memory.
    Configuration(queries=64, keys=128, warps=8),
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of one use.

    Attributes:
        batch: N, images.
        query_size, key_size: (H, W) of the map of the queries, and of the keys and values.
        heads: M.
        head_width: d, channels of a head.
        regions: S, regions a side.
        top_k: regions that a region attends to.
        dtype: "fp16" or "fp32", of all but the routes.
        configuration: the index in `CONFIGURATIONS` of how the kernel is launched.
    """

    batch: int
    query_size: tuple[int, int]
    key_size: tuple[int, int]
    heads: int
    head_width: int
    regions: int
    top_k: int
    dtype: str
    configuration: int = 0

    @classmethod
    def of(
        cls,
        q: Sequence[int],
        k: Sequence[int],
        v: Sequence[int],
        routes: Sequence[int],
        *,
        heads: int,
        regions: int,
        dtype: str,
    ) -> Sizes:
        """The sizes from the shapes of the inputs.

        Args:
            q: (N, Hq, Wq, C).
            k, v: (N, H, W, C).
            routes: (N, S*S, topk).
            heads: M, which divides C.
            regions: S, which divides the sides of both maps.
            dtype: "fp16" or "fp32", of q, k, v and the output.

        Raises:
            UsageError: the shapes do not fit each other or the attributes.
        """
        shapes = f"q {shown(q)}, k {shown(k)}, v {shown(v)}, routes {shown(routes)}"
        if (len(q), len(k), len(v), len(routes)) != (4, 4, 4, 3):
            raise UsageError(f"region attention of {shapes}: give three maps (N, H, W, C) and routes (N, S*S, topk)")
        if tuple(k) != tuple(v) or q[0] != k[0] or q[0] != routes[0] or q[3] != k[3]:
            raise UsageError(f"region attention of {shapes}: give maps of as many images and channels, k shaped as v")
        if heads < 1 or q[3] < 1 or q[3] % heads:
            raise UsageError(f"region attention of {q[3]} channels in {heads} heads: give heads that divide them")
        if regions < 1 or any(side < 1 or side % regions for side in (*q[1:3], *k[1:3])):
            raise UsageError(
                f"region attention of {shapes} with {regions} regions a side: pad the maps to multiples of them"
            )
        if routes[1] != regions**2 or not 1 <= routes[2] <= regions**2:
            raise UsageError(
                f"region attention with routes {shown(routes)}: with {regions} regions a side, give "
                f"(N, {regions**2}, 1 to {regions**2})"
            )
        if dtype not in ELEMENT_BYTES:
            raise UsageError(f"region attention of {dtype}: give {' or '.join(ELEMENT_BYTES)}")
        return cls(q[0], (q[1], q[2]), (k[1], k[2]), heads, q[3] // heads, regions, routes[2], dtype)

    def with_configuration(self, index: int) -> Sizes:
        """The same sizes, launched otherwise.

        Raises:
            UsageError: there is no such configuration.
        """
        if not 0 <= index < len(CONFIGURATIONS):
            raise UsageError(f"there is no configuration {index}: give 0 to {len(CONFIGURATIONS) - 1}")
        return replace(self, configuration=index)

    @property
    def refusal(self) -> str | None:
        """Why the kernel does not cover these sizes; None if it does."""
        if self.head_width not in HEAD_WIDTHS:
            return f"heads are {self.head_width} channels wide: the kernel takes {', '.join(map(str, HEAD_WIDTHS))}"
        largest = max(prod(self.query_size), prod(self.key_size)) * self.heads * self.head_width
        if largest > MAX_IMAGE_ELEMENTS:
            return f"a map has {largest} numbers an image: the kernel takes {MAX_IMAGE_ELEMENTS} at most"
        if max(self.batch, self.heads) > MAX_GRID:
            return f"{self.batch} images of {self.heads} heads: the kernel takes {MAX_GRID} at most"
        return None

    @property
    def query_tile(self) -> tuple[int, int]:
        """(h, w) of a region of the queries."""
        return self.query_size[0] // self.regions, self.query_size[1] // self.regions

    @property
    def key_tile(self) -> tuple[int, int]:
        """(h, w) of a region of the keys."""
        return self.key_size[0] // self.regions, self.key_size[1] // self.regions

    @property
    def blocks(self) -> tuple[int, int]:
        """Queries and keys of a block.

        Powers of two that are no larger than they need to be. The larger one is halved, keys first, until
        shared memory holds the blocks. A query alone in its tile is no matrix and stays alone.
        """
        limits = CONFIGURATIONS[self.configuration]
        needed = max(MATRIX_SIDE, power_of_two(self.top_k * prod(self.key_tile)))
        if prod(self.query_tile) == 1:
            return 1, min(needed, limits.warps * _LANES * _LANE_NUMBERS // self.head_width)
        keys = min(limits.keys, needed)
        queries = min(limits.queries, max(MATRIX_SIDE, power_of_two(prod(self.query_tile))))
        while self._shared_memory_bytes(queries, keys) >= MAX_SHARED_MEMORY_BYTES:
            queries, keys = (queries, keys // 2) if keys >= queries else (queries // 2, keys)
        return queries, keys

    @property
    def warps(self) -> int:
        """Warps of a program."""
        limit = CONFIGURATIONS[self.configuration].warps
        queries, keys = self.blocks
        if queries > 1:
            # Products in full float32 do without tensor cores: they need lanes, and two warps run out of registers.
            return limit if self.dtype == "fp16" else max(limit, 4)
        # Several loads in flight a lane hide the memory's latency better than more lanes of one load each.
        loads = keys * self.head_width * ELEMENT_BYTES[self.dtype] // _LOAD_BYTES
        return max(1, min(limit, loads // (2 * _LANES)))

    @property
    def stages(self) -> int:
        """Blocks of keys in flight: one is loaded while another is used."""
        return 2

    @property
    def shared_memory_bytes(self) -> int:
        """An upper bound of what a program takes of shared memory, below `MAX_SHARED_MEMORY_BYTES`."""
        return self._shared_memory_bytes(*self.blocks)

    def _shared_memory_bytes(self, queries: int, keys: int) -> int:
        if queries == 1:  # the scores' maximum and sum, then the sums of every warp
            return 4 * max(keys, CONFIGURATIONS[self.configuration].warps * self.head_width)
        # Two blocks of keys and one of values, the queries, and the weights on their way to the second product.
        return ELEMENT_BYTES[self.dtype] * (self.head_width * (queries + 3 * keys) + queries * keys)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs: blocks of queries of all regions, heads, images."""
        blocks = -(-prod(self.query_tile) // self.blocks[0])
        return self.regions**2 * blocks, self.heads, self.batch

    @property
    def pointers(self) -> tuple[str, ...]:
        """Types of the kernel's pointers, inputs and then the output, as Triton writes them."""
        return f"*{self.dtype}", f"*{self.dtype}", f"*{self.dtype}", "*i32", f"*{self.dtype}"

    def constants(self) -> dict[str, int]:
        """The kernel's compile-time constants by the names of its parameters."""
        return {
            "HEADS": self.heads,
            "HEAD_WIDTH": self.head_width,
            "REGIONS": self.regions,
            "TOP_K": self.top_k,
            "QUERY_HEIGHT": self.query_tile[0],
            "QUERY_WIDTH": self.query_tile[1],
            "KEY_HEIGHT": self.key_tile[0],
            "KEY_WIDTH": self.key_tile[1],
            "BLOCK_QUERIES": self.blocks[0],
            "BLOCK_KEYS": self.blocks[1],
        }
