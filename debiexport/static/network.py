"""The static network: the export-friendly rewrite, one skeleton for every lowering and target.

Every shape is known but the batch. It equals the reference network to float rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import Geometry
from debiexport.lowerings import LOWERINGS, Lowering
from debiexport.names import attention_parts, block_name, stage_name
from debiexport.reference.network import ReferenceNetwork
from debiexport.static.attention import StaticDBRA, StaticRegionAttention
from debiexport.static.fold import fold_network
from debiexport.static.mlp import StaticConvMLP, StaticLinearMLP
from debiexport.static.slots import Slots
from debiexport.static.taps import Taps
from debiexport.static.weights import Weights


class StaticBlock(nn.Module):
    """Parts that add to the residual stream, in order; see `names.block_parts`."""

    def __init__(self, name: str, geometry: Geometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.name, self.layout = name, slots.layout
        self.suffixes = [part.removeprefix("attn") for part in attention_parts(geometry.card)]
        for suffix in self.suffixes:
            channels = geometry.attentions[f"{name}.attn{suffix}"].channels
            if f"pos_embed{suffix}.weight" in weights:
                kernel, bias = (weights[f"pos_embed{suffix}.{p}"] for p in ("weight", "bias"))
                conv = self.layout.conv(kernel, bias, padding=1, groups=channels)
                self.add_module(f"pos_embed{suffix}", conv)
            attention = geometry.attentions[f"{name}.attn{suffix}"]
            cls = StaticDBRA if attention.kind == "dbra" else StaticRegionAttention
            self.add_module(f"attn{suffix}", cls(attention, weights.at(f"attn{suffix}"), slots))
            self.add_module(f"norm{suffix}", slots.norm(channels, weights.at(f"norm{suffix}")))
            mlp = weights.at(f"mlp{suffix}")
            self.convolutional = "dwc.weight" in mlp
            mlp_cls = StaticConvMLP if self.convolutional else StaticLinearMLP
            self.add_module(f"mlp{suffix}", mlp_cls(mlp, self.layout))

    def forward(self, x: Tensor, taps: Taps) -> Tensor:
        """Residual stream in and out."""
        layout = self.layout
        for suffix in self.suffixes:
            if hasattr(self, f"pos_embed{suffix}"):
                x = taps.record(f"{self.name}.pos_embed{suffix}", getattr(self, f"pos_embed{suffix}")(x))
            x = taps.record(f"{self.name}.attn{suffix}", x + getattr(self, f"attn{suffix}")(x, taps))
            normed, mlp = getattr(self, f"norm{suffix}")(layout.to_attention(x)), getattr(self, f"mlp{suffix}")
            out = mlp(layout.to_stream(normed)) if self.convolutional else layout.to_stream(mlp(normed))
            x = taps.record(f"{self.name}.mlp{suffix}", x + out)
        return x


class StaticStage(nn.Module):
    """Downsampling (but in stage 1, where the stem does it) and blocks."""

    def __init__(self, index: int, geometry: Geometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.name = stage_name(index)
        swin_layout = geometry.card.family == "biformer_stl"
        if "downsample.weight" in weights.at(self.name):
            w, b = (weights.at(self.name)[f"downsample.{p}"] for p in ("weight", "bias"))
            self.downsample = slots.layout.conv(w, b, stride=2, padding=0 if swin_layout else 1)
        else:
            self.downsample = nn.Identity()
        self.blocks = geometry.card.stages[index].blocks
        for j in range(self.blocks):
            name = block_name(index, j)
            self.add_module(f"block{j + 1}", StaticBlock(name, geometry, weights.at(name), slots))

    def forward(self, x: Tensor, taps: Taps) -> Tensor:
        """Stream of the stage before in, of this stage out."""
        x = self.downsample(x)
        for j in range(self.blocks):
            x = getattr(self, f"block{j + 1}")(x, taps)
        return x


class StaticStem(nn.Module):
    """The image's way to stage 1: convolutions with a GELU between them."""

    def __init__(self, geometry: Geometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.convs = len(geometry.stem_sizes)
        for n in range(1, self.convs + 1):
            w, b = weights[f"conv{n}.weight"], weights[f"conv{n}.bias"]
            stride = 4 if w.shape[-1] == 4 else 2
            self.add_module(f"conv{n}", slots.layout.conv(w, b, stride=stride, padding=0 if stride == 4 else 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for n in range(1, self.convs + 1):
            x = getattr(self, f"conv{n}")(x if n == 1 else F.gelu(x))
        return x


class StaticNetwork(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes), every shape but N known.

    Args:
        geometry: sizes at one image size.
        weights: folded for this geometry, see `fold.fold_network`.
        lowering: implementation of each slot.

    Raises:
        UsageError: an implementation does not serve this geometry.
    """

    def __init__(self, geometry: Geometry, weights: Weights, lowering: Lowering) -> None:
        super().__init__()
        self.geometry, self.lowering = geometry, lowering
        dtype = weights["head.weight"].dtype
        slots = Slots(lowering, dtype)
        self.layout = slots.layout
        self.stem = StaticStem(geometry, weights.at("stem"), slots)
        for i in range(len(geometry.card.stages)):
            self.add_module(stage_name(i), StaticStage(i, geometry, weights, slots))
        self.head = self.layout.attention_pointwise(weights["head.weight"], weights["head.bias"])
        self.eval()

    @classmethod
    def of(
        cls,
        reference: ReferenceNetwork,
        image_size: tuple[int, int] | None = None,
        lowering: Lowering = LOWERINGS["gather"],
        dtype: torch.dtype = torch.float32,
    ) -> StaticNetwork:
        """Fold a loaded reference network and rebuild it for one image size."""
        geometry = Geometry.of(reference.card, image_size or reference.image_size)
        return cls(geometry, fold_network(reference, geometry, dtype), lowering)

    def forward(self, images: Tensor, taps: Taps | None = None) -> Tensor:
        """Logits (N, classes); `taps` receives the tensors with stable names."""
        taps = Taps() if taps is None else taps
        x = self.stem(images)
        for i in range(len(self.geometry.card.stages)):
            x = getattr(self, stage_name(i))(x, taps)
        return self.head(self.layout.pool(x))  # type: ignore[no-any-return]
