"""The static network: the export-friendly rewrite, one skeleton for every lowering and target.

Every shape is known but the batch. It equals the reference network to float rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import Geometry
from debiexport.lowerings import DEFAULT, LOWERINGS, Lowering
from debiexport.names import attention_parts, block_name, feature_name, output_names, stage_name
from debiexport.reference.network import ReferenceNetwork
from debiexport.signature import NORMALIZED, UINT8
from debiexport.static.attention import StaticDBRA, StaticRegionAttention
from debiexport.static.fold import fold_network
from debiexport.static.mlp import StaticConvMLP, StaticLinearMLP
from debiexport.static.pixels import PixelInput
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


class StaticFeature(nn.Module):
    """A stage's map (N, C, H, W), normed over its channels, as a dense backbone gives it."""

    def __init__(self, channels: int, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.layout = slots.layout
        self.norm = slots.norm(channels, weights, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layout.to_stream(self.norm(self.layout.to_attention(x)))


class StaticNetwork(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes) or features (N, C, H, W), every shape but N known.

    Args:
        geometry: sizes at one image size.
        weights: folded for this geometry, see `fold.fold_network`.
        lowering: implementation of each slot.
        input: "normalized", or "uint8" for images (N, H, W, 3) of bytes, see `static.pixels`.

    Raises:
        UsageError: an implementation does not serve this geometry.
    """

    def __init__(self, geometry: Geometry, weights: Weights, lowering: Lowering, input: str = NORMALIZED) -> None:
        super().__init__()
        self.geometry, self.lowering, self.input = geometry, lowering, input
        dtype = weights["stem.conv1.weight"].dtype
        slots = Slots(lowering, dtype)
        self.layout = slots.layout
        self.pixels = PixelInput(geometry.card.preprocessing, dtype) if input == UINT8 else nn.Identity()
        self.stem = StaticStem(geometry, weights.at("stem"), slots)
        for i, stage in enumerate(geometry.card.stages):
            self.add_module(stage_name(i), StaticStage(i, geometry, weights, slots))
            if geometry.card.num_classes is None:
                name = feature_name(i)
                self.add_module(name, StaticFeature(stage.channels, weights.at(name), slots))
        if geometry.card.num_classes is not None:
            self.head = self.layout.attention_pointwise(weights["head.weight"], weights["head.bias"])
        self.eval()

    @classmethod
    def of(
        cls,
        reference: ReferenceNetwork,
        image_size: tuple[int, int] | None = None,
        lowering: Lowering = LOWERINGS[DEFAULT],
        dtype: torch.dtype = torch.float32,
        input: str = NORMALIZED,
    ) -> StaticNetwork:
        """Fold a loaded reference network and rebuild it for one image size."""
        geometry = Geometry.of(reference.card, image_size or reference.image_size)
        return cls(geometry, fold_network(reference, geometry, dtype), lowering, input)

    def forward(self, images: Tensor, taps: Taps | None = None) -> Tensor | tuple[Tensor, ...]:
        """Logits, or the features of all stages; `taps` receives the tensors with stable names."""
        outputs = self.outputs(images, Taps() if taps is None else taps)
        return outputs if self.geometry.card.num_classes is None else outputs[0]

    def outputs(self, images: Tensor, taps: Taps) -> tuple[Tensor, ...]:
        """The outputs in the order of `names.output_names`."""
        x, features = self.stem(self.pixels(images)), []
        for i in range(len(self.geometry.card.stages)):
            x = getattr(self, stage_name(i))(x, taps)
            if self.geometry.card.num_classes is None:
                features.append(getattr(self, feature_name(i))(x))
        return tuple(features) or (self.layout.logits(self.head(self.layout.pool(x))),)

    @property
    def output_names(self) -> tuple[str, ...]:
        return output_names(self.geometry.card)

    def example(self, batch: int) -> Tensor:
        """Images of zeros in the form that the network takes."""
        height, width = self.geometry.image_size
        if self.input == UINT8:
            return torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        return torch.zeros(batch, 3, height, width)
