"""The reference network: eager, plain, with the keys of released checkpoints.

What it computes is what the released code computes, padding included; every artifact is judged against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from debiexport.cards import Card, Stage
from debiexport.names import AFFINITY, LOGITS, ROUTES, attention_parts, block_name, feature_name
from debiexport.reference.bra import BRA
from debiexport.reference.dbra import DBRA
from debiexport.reference.full import FullAttention
from debiexport.reference.mlp import ConvMLP, linear_mlp
from debiexport.reference.trace import Trace


@dataclass(frozen=True)
class ReferenceRun:
    """Outputs, routing and (if asked for) the residual stream of one run.

    Attributes:
        outputs: by output name: `logits` (N, classes), or `feature1` to `feature4` (N, C, H, W).
        routes: (N, R, k) int64 by the stable name of the attention.
        affinities: (N, R, R) by the stable name of the attention.
        stream: residual stream (N, C, H, W) by stable name; empty unless asked for.
    """

    outputs: dict[str, Tensor]
    routes: dict[str, Tensor]
    affinities: dict[str, Tensor]
    stream: dict[str, Tensor]


class DoubleBlock(nn.Module):
    """A DeBiFormer block: BRA or DBRA, then DBRA, each with position conv and MLP."""

    def __init__(self, name: str, first: nn.Module, second: nn.Module, stage: Stage) -> None:
        super().__init__()
        c = stage.channels
        self.name = name
        self.pos_embed1 = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.pos_embed2 = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(c, eps=1e-6) for _ in range(4))
        self.attn1, self.attn2 = first, second
        self.mlp1, self.mlp2 = ConvMLP(c, stage.mlp_ratio), ConvMLP(c, stage.mlp_ratio)

    def forward(self, x: Tensor, trace: Trace) -> Tensor:
        """x: (N, C, H, W)"""
        for i, (pos_embed, norm_a, attn, norm_m, mlp) in enumerate(
            (
                (self.pos_embed1, self.norm1, self.attn1, self.norm2, self.mlp1),
                (self.pos_embed2, self.norm3, self.attn2, self.norm4, self.mlp2),
            ),
            1,
        ):
            x = trace.record(f"{self.name}.pos_embed{i}", x + pos_embed(x))
            x = trace.record(f"{self.name}.attn{i}", x + attn(norm_a(x.permute(0, 2, 3, 1)), trace).permute(0, 3, 1, 2))
            x = trace.record(f"{self.name}.mlp{i}", x + mlp(norm_m(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
        return x


class SingleBlock(nn.Module):
    """A BiFormer block: one attention and one MLP; the Swin-T layout has no position conv."""

    def __init__(self, name: str, attn: nn.Module, stage: Stage, *, swin_layout: bool) -> None:
        super().__init__()
        c = stage.channels
        self.name = name
        self.pos_embed = None if swin_layout else nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.norm1, self.norm2 = nn.LayerNorm(c, eps=1e-6), nn.LayerNorm(c, eps=1e-6)
        self.attn = attn
        self.mlp = linear_mlp(c, stage.mlp_ratio, with_gap=not swin_layout)

    def forward(self, x: Tensor, trace: Trace) -> Tensor:
        """x: (N, C, H, W)"""
        if self.pos_embed is not None:
            x = trace.record(f"{self.name}.pos_embed", x + self.pos_embed(x))
        t = x.permute(0, 2, 3, 1)
        t = t + self.attn(self.norm1(t), trace)
        trace.record(f"{self.name}.attn", t.permute(0, 3, 1, 2))
        t = t + self.mlp(self.norm2(t))
        return trace.record(f"{self.name}.mlp", t.permute(0, 3, 1, 2))


class _SwinStage(nn.Module):
    """Holds a stage's blocks one level down, where Swin-T-layout checkpoints have them."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class FeatureNorm(nn.Module):
    """LayerNorm over the channels of a stage's map (N, C, H, W), as a dense backbone gives it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class ReferenceNetwork(nn.Module):
    """The network of a card, in evaluation mode unless told otherwise.

    Attributes:
        card: the card it was built from.
        image_size: (height, width) it was asked for, or the card's default; the network itself takes any size
            from 32 up.
    """

    def __init__(self, card: Card, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.card, self.image_size = card, image_size or card.default_image_size
        widths = [stage.channels for stage in card.stages]
        swin_layout = card.family == "biformer_stl"
        self.downsample_layers = nn.ModuleList(_swin_stems(widths) if swin_layout else _stems(widths))
        self.stages = nn.ModuleList()
        for i, stage in enumerate(card.stages):
            blocks = [_block(card, i, j, swin_layout=swin_layout) for j in range(stage.blocks)]
            self.stages.append(_SwinStage(blocks) if swin_layout else nn.Sequential(*blocks))
        if card.num_classes is None:
            self.extra_norms = nn.ModuleList(FeatureNorm(width) for width in widths)
        else:
            self.norm = nn.BatchNorm2d(widths[-1])
            self.head = nn.Linear(widths[-1], card.num_classes)
        self.eval()

    def forward(self, images: Tensor, trace: Trace | None = None) -> Tensor | tuple[Tensor, ...]:
        """Normalised images (N, 3, H, W) -> logits (N, classes), or the features (N, C, H, W) of all stages."""
        outputs = tuple(self.outputs(images, trace or Trace()).values())
        return outputs if self.card.num_classes is None else outputs[0]

    def outputs(self, images: Tensor, trace: Trace) -> dict[str, Tensor]:
        """The outputs by name, in the order of `names.output_names`."""
        x, features = images, {}
        for i, downsample in enumerate(self.downsample_layers):
            x = downsample(x)
            for block in self.blocks(i):
                x = block(x, trace)
            if self.card.num_classes is None:
                features[feature_name(i)] = self.extra_norms[i](x)  # the next stage takes the un-normed map
        return features or {LOGITS: self.head(self.norm(x).mean((2, 3)))}

    def blocks(self, stage_index: int) -> list[nn.Module]:
        """The blocks of a stage, in order."""
        stage = self.stages[stage_index]
        return list(stage.blocks) if isinstance(stage, _SwinStage) else list(stage.children())

    @torch.no_grad()
    def run(self, images: Tensor, routes: Mapping[str, Tensor] | None = None, *, stream: bool = False) -> ReferenceRun:
        """Run without gradients and report the routing.

        Args:
            images: (N, 3, H, W) in the network's own dtype.
            routes: routes (N, R, k) by the stable name of an attention, forced on the network there.
            stream: report the residual stream as well.
        """
        trace = Trace(routes, keep=True, stream=stream)
        outputs = self.outputs(images, trace)

        def named(part: str) -> dict[str, Tensor]:
            end = f".{part}"
            return {n.removesuffix(end): t for n, t in trace.tensors.items() if n.endswith(end)}

        kept = {n: t for n, t in trace.tensors.items() if not n.endswith((f".{AFFINITY}", f".{ROUTES}"))}
        return ReferenceRun(outputs, named(ROUTES), named(AFFINITY), kept)


def _stems(widths: list[int]) -> list[nn.Sequential]:
    stem = nn.Sequential(
        nn.Conv2d(3, widths[0] // 2, 3, stride=2, padding=1),
        nn.BatchNorm2d(widths[0] // 2),
        nn.GELU(),
        nn.Conv2d(widths[0] // 2, widths[0], 3, stride=2, padding=1),
        nn.BatchNorm2d(widths[0]),
    )
    return [stem] + [
        nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b)) for a, b in pairwise(widths)
    ]


def _swin_stems(widths: list[int]) -> list[nn.Sequential]:
    stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), nn.BatchNorm2d(widths[0]))
    return [stem] + [nn.Sequential(nn.BatchNorm2d(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in pairwise(widths)]


def _block(card: Card, i: int, j: int, *, swin_layout: bool) -> nn.Module:
    stage, name = card.stages[i], block_name(i, j)
    mixers = [
        _mixer(card, stage, f"{name}.{part}", kind)
        for part, kind in zip(attention_parts(card), stage.attention, strict=True)
    ]
    if card.family == "debiformer":
        return DoubleBlock(name, mixers[0], mixers[1], stage)
    return SingleBlock(name, mixers[0], stage, swin_layout=swin_layout)


def _mixer(card: Card, stage: Stage, name: str, kind: str) -> nn.Module:
    c, m = stage.channels, stage.heads
    if kind == "full":
        return FullAttention(c, m)
    if kind == "bra":
        assert stage.bra_top_k is not None
        return BRA(name, c, m, card.regions, stage.bra_top_k)
    assert stage.dbra_top_k and stage.offset_groups and stage.offset_kernel
    assert stage.agent_stride and stage.table_side and stage.dbra_mlp_ratio
    return DBRA(
        name,
        c,
        m,
        card.regions,
        stage.dbra_top_k,
        groups=stage.offset_groups,
        kernel=stage.offset_kernel,
        stride=stage.agent_stride,
        table_side=stage.table_side,
        mlp_ratio=stage.dbra_mlp_ratio,
    )
