"""The static sizes of one use of agent attention, and how its kernel is launched for them.

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

_KEY_BYTES = 4096  # of a block of agents: the values of twice as many do not fit in a program's registers


@dataclass(frozen=True)
class Configuration:
    """Upper limits of a program; what a use needs or its memory holds may be less.

    Attributes:
        tokens, agents: of a block, powers of two.
    """

    tokens: int
    agents: int


CONFIGURATIONS = (
    Configuration(tokens=64, agents=32),
    # Smaller programs, and more of them: for few images, where large ones would leave multiprocessors idle.
    Configuration(tokens=32, agents=32),
    # Larger ones: for many agents, whose keys and values are read once for all tokens of a block.
    Configuration(tokens=128, agents=32),
)


@dataclass(frozen=True)
class Sizes:
    """Sizes of one use.

    Attributes:
        batch: N, images.
        token_size: (H, W) of the map of the tokens.
        agents: n.
        heads: M.
        head_width: d, channels of a head.
        groups: G, groups of heads with positions of their own.
        table_side: q; a head's table has 2q-1 entries a side.
        dtype: "fp16" or "fp32", of q, k, v and the output; positions and table are float32.
        configuration: the index in `CONFIGURATIONS` of how the kernel is launched.
    """

    batch: int
    token_size: tuple[int, int]
    agents: int
    heads: int
    head_width: int
    groups: int
    table_side: int
    dtype: str
    configuration: int = 0

    @classmethod
    def of(
        cls,
        q: Sequence[int],
        k: Sequence[int],
        v: Sequence[int],
        positions: Sequence[int],
        table: Sequence[int],
        *,
        heads: int,
        dtype: str,
    ) -> Sizes:
        """The sizes from the shapes of the inputs.

        Args:
            q: (N, H, W, C).
            k, v: (N, Hk, Wk, C), maps of n = Hk*Wk agents.
            positions: (N, G, n, 2).
            table: (M, 2q-1, 2q-1).
            heads: M, which divides C and is a multiple of G.
            dtype: "fp16" or "fp32", of q, k, v and the output.

        Raises:
            UsageError: the shapes do not fit each other or the attributes.
        """
        shapes = f"q {shown(q)}, k {shown(k)}, v {shown(v)}, positions {shown(positions)}, table {shown(table)}"
        if (len(q), len(k), len(v), len(positions), len(table)) != (4, 4, 4, 4, 3):
            raise UsageError(
                f"agent attention of {shapes}: give three maps (N, H, W, C), positions (N, G, n, 2) and a table "
                "(M, 2q-1, 2q-1)"
            )
        if tuple(k) != tuple(v) or q[0] != k[0] or q[0] != positions[0] or q[3] != k[3]:
            raise UsageError(f"agent attention of {shapes}: give maps of as many images and channels, k shaped as v")
        if min(q[1:3]) < 2 or min(k[1:3]) < 1:
            raise UsageError(f"agent attention of {shapes}: give 2 tokens a side or more, and agents")
        if heads < 1 or q[3] < 1 or q[3] % heads:
            raise UsageError(f"agent attention of {q[3]} channels in {heads} heads: give heads that divide them")
        agents, groups = prod(k[1:3]), positions[1]
        if tuple(positions[2:]) != (agents, 2) or groups < 1 or heads % groups:
            raise UsageError(
                f"agent attention with positions {shown(positions)}: for {agents} agents and {heads} heads, give "
                f"(N, G, {agents}, 2) with a G that divides the heads"
            )
        if table[0] != heads or table[1] != table[2] or table[1] < 3 or table[1] % 2 == 0:
            raise UsageError(
                f"agent attention with a table {shown(table)}: for {heads} heads, give ({heads}, 2q-1, 2q-1) with a q "
                "of 2 or more"
            )
        if dtype not in ELEMENT_BYTES:
            raise UsageError(f"agent attention of {dtype}: give {' or '.join(ELEMENT_BYTES)}")
        return cls(q[0], (q[1], q[2]), agents, heads, q[3] // heads, groups, (table[1] + 1) // 2, dtype)

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
        largest = max(prod(self.token_size), self.agents) * self.heads * self.head_width
        if largest > MAX_IMAGE_ELEMENTS:
            return f"a map has {largest} numbers an image: the kernel takes {MAX_IMAGE_ELEMENTS} at most"
        table = self.heads * (2 * self.table_side - 1) ** 2
        if table > MAX_IMAGE_ELEMENTS:
            return f"the table has {table} numbers: the kernel takes {MAX_IMAGE_ELEMENTS} at most"
        if max(self.batch, self.heads) > MAX_GRID:
            return f"{self.batch} images of {self.heads} heads: the kernel takes {MAX_GRID} at most"
        return None

    @property
    def blocks(self) -> tuple[int, int]:
        """Tokens and agents of a block: powers of two that are no larger than they need to be or memory holds."""
        limits = CONFIGURATIONS[self.configuration]
        held = _KEY_BYTES // (self.head_width * ELEMENT_BYTES[self.dtype])
        agents = max(MATRIX_SIDE, min(limits.agents, held, power_of_two(self.agents)))
        tokens = max(MATRIX_SIDE, min(limits.tokens, power_of_two(prod(self.token_size))))
        while self._shared_memory_bytes(tokens, agents) >= MAX_SHARED_MEMORY_BYTES:
            tokens //= 2
        return tokens, agents

    @property
    def warps(self) -> int:
        """Warps of a program: one for 16 tokens, the rows of a tensor core's product, whose softmax it keeps."""
        return self.blocks[0] // MATRIX_SIDE

    @property
    def stages(self) -> int:
        """Blocks of agents in flight: one is loaded while another is used."""
        return 2

    @property
    def shared_memory_bytes(self) -> int:
        """An upper bound of what a program takes of shared memory, below `MAX_SHARED_MEMORY_BYTES`."""
        return self._shared_memory_bytes(*self.blocks)

    def _shared_memory_bytes(self, tokens: int, agents: int) -> int:
        # The tokens, a block of keys and one of values; and the bias on its way from the threads that sample it to
        # those that have the scores, a number of padding a row.
        values = ELEMENT_BYTES[self.dtype] * self.head_width * (tokens + 2 * agents)
        return values + 4 * tokens * (agents + 1)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs: blocks of tokens, heads, images."""
        return -(-prod(self.token_size) // self.blocks[0]), self.heads, self.batch

    @property
    def pointers(self) -> tuple[str, ...]:
        """Types of the kernel's pointers, inputs and then the output, as Triton writes them."""
        return f"*{self.dtype}", f"*{self.dtype}", f"*{self.dtype}", "*fp32", "*fp32", f"*{self.dtype}"

    def constants(self) -> dict[str, int]:
        """The kernel's compile-time constants by the names of its parameters."""
        return {
            "HEADS": self.heads,
            "HEAD_WIDTH": self.head_width,
            "GROUPS": self.groups,
            "HEIGHT": self.token_size[0],
            "WIDTH": self.token_size[1],
            "AGENTS": self.agents,
            "TABLE_SIDE": self.table_side,
            "BLOCK_TOKENS": self.blocks[0],
            "BLOCK_AGENTS": self.blocks[1],
        }
