"""What the GPU benchmark measures, and in which order: uses of the fused operations at 224 pixels, and networks.

The most wanted come first, since a run may be cut short: debi_t in float16 with 8 images, then the others. The uses of
a card are those of its network with the kernels: where top-k covers every region, as in stage 4, nothing is routed and
region attention has no use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from debiexport.cards import Card, load_card
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.plugins.agent_attention.sizes import CONFIGURATIONS as AGENT_CONFIGURATIONS
from debiexport.plugins.agent_attention.sizes import ELEMENT_BYTES
from debiexport.plugins.agent_attention.sizes import Sizes as AgentSizes
from debiexport.plugins.ahead_of_time import tactics
from debiexport.plugins.region_attention.sizes import CONFIGURATIONS as REGION_CONFIGURATIONS
from debiexport.plugins.region_attention.sizes import Sizes as RegionSizes

CARDS = ("debi_t", "debi_b")
IMAGE_SIZE = (224, 224)
ORDER = (("fp16", 8), ("fp16", 1), ("fp16", 64), ("fp32", 8), ("fp32", 1), ("fp32", 64))
"""Precisions and batches, the most wanted first."""

REGION, AGENT = "region_attention", "agent_attention"
TOKENS, AGENTS, BROADCAST = "tokens", "agents", "broadcast"
"""Who asks: tokens of BRA and agents of DBRA, both in their regions; tokens of DBRA, for whom the agents answer."""

CONFIGURATIONS = {REGION: len(REGION_CONFIGURATIONS), AGENT: len(AGENT_CONFIGURATIONS)}

Sizes: TypeAlias = RegionSizes | AgentSizes
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Use:
    """A use of a fused operation.

    Attributes:
        card: the network's name.
        stage: such as "stage1".
        role: `TOKENS`, `AGENTS` or `BROADCAST`.
        operation: `REGION` or `AGENT`.
        count: how often an inference uses it.
        sizes: of one image in float32.
    """

    card: str
    stage: str
    role: str
    operation: str
    count: int
    sizes: Sizes

    @property
    def name(self) -> str:
        return f"{self.card}/{self.stage}/{self.role}"


@dataclass(frozen=True)
class KernelCase:
    """A use in a precision ("fp16" or "fp32") with a number of images."""

    use: Use
    precision: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.use.name}/{self.precision}/b{self.batch}"

    @property
    def card(self) -> str:
        return self.use.card

    @property
    def sizes(self) -> Sizes:
        """In the default configuration."""
        return replace(self.use.sizes, batch=self.batch, dtype=self.precision)

    def configurations(self) -> list[int]:
        """Those that launch different kernels for these sizes, as TensorRT is offered them."""
        return [tactic - 1 for tactic in tactics(self.sizes, CONFIGURATIONS[self.use.operation])]


@dataclass(frozen=True)
class NetworkCase:
    """A whole network in torch."""

    card: str
    precision: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.card}/network/{self.precision}/b{self.batch}"


@dataclass(frozen=True)
class OnnxCase:
    """A whole network in ONNX Runtime, whose subjects are of both precisions."""

    card: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.card}/onnxruntime/b{self.batch}"


Case = KernelCase | NetworkCase | OnnxCase


def all_cases(cards: Sequence[str] = CARDS) -> list[Case]:
    """Everything, the most wanted first."""
    uses = {name: uses_of(load_card(name)) for name in cards}
    cases: list[Case] = []
    for precision, batch in ORDER:
        for card in cards:
            cases += [KernelCase(use, precision, batch) for use in uses[card]]
            cases.append(NetworkCase(card, precision, batch))
    batches = dict.fromkeys(batch for _, batch in ORDER)
    return [*cases, *(OnnxCase(card, batch) for batch in batches for card in cards)]


def uses_of(card: Card, image_size: tuple[int, int] = IMAGE_SIZE) -> list[Use]:
    """Every use in a network, each once."""
    found = Counter(
        (geometry.name.partition(".")[0], role, operation, sizes)
        for geometry in Geometry.of(card, image_size).attentions.values()
        for role, operation, sizes in _uses(geometry)
    )
    return [Use(card.name, stage, role, op, count, sizes) for (stage, role, op, sizes), count in found.items()]


def _uses(g: AttentionGeometry) -> Iterator[tuple[str, str, Sizes]]:
    if g.kind != "full" and not g.routes_everywhere:
        sizes = RegionSizes(1, g.query_size, g.padded_size, g.heads, g.head_width, g.regions, g.top_k, "fp32")
        yield TOKENS if g.kind == "bra" else AGENTS, REGION, sizes
    if g.kind == "dbra":
        groups, side = g.stage.offset_groups, g.stage.table_side
        assert g.padded_agent_size and groups and side
        agents = prod(g.padded_agent_size)
        yield BROADCAST, AGENT, AgentSizes(1, g.padded_size, agents, g.heads, g.head_width, groups, side, "fp32")


def input_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Shapes of the inputs by name, in the kernel's order."""
    n, channels = sizes.batch, sizes.heads * sizes.head_width
    if isinstance(sizes, RegionSizes):
        keys = (n, *sizes.key_size, channels)
        return {
            "q": (n, *sizes.query_size, channels),
            "k": keys,
            "v": keys,
            "routes": (n, sizes.regions**2, sizes.top_k),
        }
    agents, side = (n, 1, sizes.agents, channels), 2 * sizes.table_side - 1
    positions = (n, sizes.groups, sizes.agents, 2)
    return {
        "q": (n, *sizes.token_size, channels), "k": agents, "v": agents,
        "positions": positions, "table": (sizes.heads, side, side),
    }  # fmt: skip


def moved_bytes(sizes: Sizes) -> int:
    """The fewest bytes that memory has to move: every input read once, the output, shaped as q, written once.

    Routes, positions and tables have 4 bytes a number in both precisions.
    """
    shapes = input_shapes(sizes)
    wide = sum(4 * prod(shape) for name, shape in shapes.items() if name not in ("q", "k", "v"))
    maps = 2 * prod(shapes["q"]) + prod(shapes["k"]) + prod(shapes["v"])
    return int(wide + maps * ELEMENT_BYTES[sizes.dtype])
