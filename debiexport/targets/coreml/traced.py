"""The modules that are traced: a network with its preprocessing in front and its stable names behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from debiexport.cards import Preprocessing
from debiexport.names import LOGITS
from debiexport.static.network import StaticNetwork
from debiexport.static.taps import Taps

PROBABILITIES = "probabilities"


class Named(Protocol):
    """What gives outputs and the tensors inside by their stable names."""

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs first."""
        ...


class NamedStatic(nn.Module):
    """A static network with its taps."""

    def __init__(self, network: StaticNetwork) -> None:
        super().__init__()
        self.network = network

    def named(self, images: Tensor) -> dict[str, Tensor]:
        """See `Named`."""
        taps = Taps()
        outputs = self.network.outputs(images, taps)
        return dict(zip(self.network.output_names, outputs, strict=True)) | taps


class ImageNormalisation(nn.Module):
    """Pixels (1, 3, H, W) in 0..255 -> normalised, as `x * scale + shift`, each computed in float64.

    Core ML's image type has one factor for all channels and no exact place for three, so it hands over the pixels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.scale + self.shift


class Traced(nn.Module):
    """What the converter sees: every named tensor is an output, which is how it learns the names.

    Args:
        network: with `named`.
        preprocessing: of an image input; None where the input is normalised.
        classifier: give softmax probabilities as well.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing | None, *, classifier: bool) -> None:
        super().__init__()
        self.network, self.classifier = network, classifier
        self.normalise: Callable[[Tensor], Tensor]
        self.normalise = nn.Identity() if preprocessing is None else ImageNormalisation(preprocessing)

    def named(self, images: Tensor) -> Mapping[str, Tensor]:
        """Outputs and inner tensors by stable name."""
        tensors: dict[str, Tensor] = self.network.named(self.normalise(images))  # type: ignore[operator]
        if self.classifier:
            tensors = {PROBABILITIES: tensors[LOGITS].softmax(-1), **tensors}
        return tensors

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())
