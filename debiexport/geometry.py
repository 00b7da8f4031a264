"""Every size of a network at one image size, computed once and read by everybody.

Geometry knows no weights and needs no torch. Sizes are in tokens (positions of a feature map) unless
said otherwise; a multiply-add is one multiplication and one addition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from math import prod

from debiexport.cards import MAX_IMAGE_SIDE, MIN_IMAGE_SIDE, Card, Stage
from debiexport.errors import UsageError
from debiexport.names import LOGITS, AttentionSite, attention_sites, feature_name


def parse_image_size(text: str) -> tuple[int, int]:
    """`224` or `224x448` (height x width) as a pair.

    Raises:
        UsageError: not one or two whole numbers, or a side out of range.
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(p.isascii() and p.isdigit() and len(p) < 10 for p in parts):
        raise UsageError(f"--image-size is {text!r}: give pixels, as 224 or HEIGHTxWIDTH, as 224x448")
    sides = [int(p) for p in parts]
    return check_image_size((sides[0], sides[-1]))


def check_image_size(size: tuple[int, int]) -> tuple[int, int]:
    """Refuse an image (height, width) out of range; see `parse_image_size`."""
    for side in size:
        if not MIN_IMAGE_SIDE <= side <= MAX_IMAGE_SIDE:
            raise UsageError(
                f"--image-size is {size[0]}x{size[1]}: each side must be {MIN_IMAGE_SIDE} to {MAX_IMAGE_SIDE} pixels"
            )
    return size


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass(frozen=True)
class AttentionGeometry:
    """Sizes of one attention.

    Attributes:
        site: its name, mixer and stage.
        regions: S, regions per side.
        map_size: (H, W) of the stage.
        padded_size: (H, W) zero-padded right and bottom to multiples of S; equal for "full".
        agent_size: (Hk, Wk) of the agents (DBRA), before padding; None otherwise.
        padded_agent_size: the same padded to multiples of S.
    """

    site: AttentionSite
    regions: int
    map_size: tuple[int, int]
    padded_size: tuple[int, int]
    agent_size: tuple[int, int] | None
    padded_agent_size: tuple[int, int] | None

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def kind(self) -> str:
        return self.site.kind

    @property
    def stage(self) -> Stage:
        return self.site.stage

    @property
    def channels(self) -> int:
        return self.site.stage.channels

    @property
    def heads(self) -> int:
        return self.site.stage.heads

    @property
    def head_width(self) -> int:
        return self.site.stage.head_width

    @property
    def region_count(self) -> int:
        """R = S*S."""
        return self.regions**2

    @property
    def top_k(self) -> int:
        """Regions attended to; for "full", where nothing routes, all of them."""
        return self.site.top_k or self.region_count

    @property
    def routes_everywhere(self) -> bool:
        """Whether top-k covers every region, so that there is nothing to choose."""
        return self.top_k == self.region_count

    @property
    def scale(self) -> float:
        """Factor of the scores: C^-0.5 where it routes, head width^-0.5 in "full" (released code)."""
        width = self.head_width if self.kind == "full" else self.channels
        return 1 / math.sqrt(width)

    @property
    def is_padded(self) -> bool:
        return self.map_size != self.padded_size

    @property
    def agents_are_padded(self) -> bool:
        return self.agent_size != self.padded_agent_size

    @property
    def region_size(self) -> tuple[int, int]:
        """(h, w) of one region of the padded map."""
        return self.padded_size[0] // self.regions, self.padded_size[1] // self.regions

    @property
    def query_size(self) -> tuple[int, int]:
        """(H, W) of the padded map of those who route: the tokens of BRA, the agents of DBRA."""
        return self.padded_agent_size or self.padded_size

    @property
    def padding_regions(self) -> frozenset[int]:
        """Indices of key regions that are padding throughout: their affinities are equal by construction."""
        h, w = self.region_size
        rows = range(_round_up(self.map_size[0], h) // h, self.regions)
        cols = range(_round_up(self.map_size[1], w) // w, self.regions)
        return frozenset(
            i * self.regions + j for i in range(self.regions) for j in range(self.regions) if i in rows or j in cols
        )

    @property
    def multiply_adds(self) -> int:
        """Projections, attention and depthwise convolutions of this attention, per image."""
        c, tokens = self.channels, prod(self.padded_size)
        if self.kind == "full":
            return tokens * (4 * c * c + 2 * tokens * c + 25 * c)
        keys = self.top_k * prod(self.region_size)
        routing = self.region_count**2 * c
        if self.kind == "bra":
            # The output projection reads the map after the padding has been cut off.
            return tokens * (3 * c * c + 2 * keys * c + 25 * c) + prod(self.map_size) * c * c + routing
        assert self.padded_agent_size and self.agent_size
        assert self.stage.offset_kernel and self.stage.dbra_mlp_ratio
        agents, sampled = prod(self.padded_agent_size), prod(self.agent_size)
        hidden = self.stage.dbra_mlp_ratio * c
        mlp = agents * (2 * c * hidden + 9 * hidden)
        offsets = sampled * (self.stage.offset_kernel**2 * c + c)
        agent_side = agents * (4 * c * c + 2 * keys * c) + sampled * 25 * c + routing + offsets + mlp
        return agent_side + tokens * (4 * c * c + 2 * agents * c)


@dataclass(frozen=True)
class Geometry:
    """Every size of a card's network at one image size.

    Attributes:
        card: the card.
        image_size: (height, width) in pixels.
        stem_sizes: (H, W) after every convolution of the stem, the last being stage 1's.
        stage_sizes: (H, W) of the four stages.
        attentions: geometry of every attention by its stable name, in order.
    """

    card: Card
    image_size: tuple[int, int]
    stem_sizes: tuple[tuple[int, int], ...]
    stage_sizes: tuple[tuple[int, int], ...]
    attentions: dict[str, AttentionGeometry] = field(compare=False)

    @classmethod
    def of(cls, card: Card, image_size: tuple[int, int]) -> Geometry:
        """Compute the geometry.

        Raises:
            UsageError: the image size is out of range.
        """
        check_image_size(image_size)
        if card.family == "biformer_stl":  # stem and downsampling floor
            stem: tuple[tuple[int, int], ...] = (_conv_size(image_size, 4, 4, 0),)
            sizes = [stem[-1]]
            for _ in range(3):
                sizes.append(_conv_size(sizes[-1], 2, 2, 0))
        else:
            half = _conv_size(image_size, 3, 2, 1)
            stem = (half, _conv_size(half, 3, 2, 1))
            sizes = [stem[-1]]
            for _ in range(3):
                sizes.append(_conv_size(sizes[-1], 3, 2, 1))
        attentions = {site.name: _attention(card, site, sizes[site.stage_index]) for site in attention_sites(card)}
        return cls(card, image_size, stem, tuple(sizes), attentions)

    @property
    def routed(self) -> tuple[AttentionGeometry, ...]:
        """Every attention that routes, also where top-k covers all regions."""
        return tuple(a for a in self.attentions.values() if a.site.top_k is not None)

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every output of one image: (classes,), or (C, H, W) of each stage."""
        if self.card.num_classes is not None:
            return {LOGITS: (self.card.num_classes,)}
        stages = zip(self.card.stages, self.stage_sizes, strict=True)
        return {feature_name(i): (stage.channels, *size) for i, (stage, size) in enumerate(stages)}

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image: convolutions, matrix products and attention.

        Norms, activations, softmax, sampling and the position bias are not counted, as in the
        papers' FLOPs.
        """
        card = self.card
        widths = [stage.channels for stage in card.stages]
        total = widths[-1] * (card.num_classes or 0) + sum(a.multiply_adds for a in self.attentions.values())
        if card.family == "biformer_stl":
            total += prod(self.stem_sizes[0]) * 3 * 16 * widths[0]
            kernel = 4
        else:
            half = widths[0] // 2
            total += prod(self.stem_sizes[0]) * 27 * half + prod(self.stem_sizes[1]) * 9 * half * widths[0]
            kernel = 9
        for i in (1, 2, 3):
            total += prod(self.stage_sizes[i]) * kernel * widths[i - 1] * widths[i]
        for stage, size in zip(card.stages, self.stage_sizes, strict=True):
            c, hidden = stage.channels, stage.mlp_ratio * stage.channels
            mlp = 2 * c * hidden
            if card.family == "debiformer":
                block = 2 * (mlp + 9 * hidden + 9 * c)
            else:
                block = mlp + (9 * c if card.family == "biformer" else 0)
            total += stage.blocks * prod(size) * block
        return total


def _conv_size(size: tuple[int, int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in size)
    return height, width


def _attention(card: Card, site: AttentionSite, size: tuple[int, int]) -> AttentionGeometry:
    s = card.regions
    if site.kind == "full":
        return AttentionGeometry(site, s, size, size, None, None)
    padded = (_round_up(size[0], s), _round_up(size[1], s))
    if site.kind == "bra":
        return AttentionGeometry(site, s, size, padded, None, None)
    assert site.stage.offset_kernel and site.stage.agent_stride
    agents = _conv_size(padded, site.stage.offset_kernel, site.stage.agent_stride, site.stage.offset_kernel // 2)
    padded_agents = (_round_up(agents[0], s), _round_up(agents[1], s))
    return AttentionGeometry(site, s, size, padded, agents, padded_agents)
