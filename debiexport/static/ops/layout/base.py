"""What a layout offers: how the residual stream lies in memory, what attention reads, and what that takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from debiexport.static.layers import convolution
from debiexport.static.ops.positions import AgentPositions

Size = tuple[int, int]


class Layout(ABC):
    """The stream is (N, C, H, W); maps are what norms read and attention gives, in the `attention_format`.

    Attributes:
        attention_format: "nhwc" or "nchw"; implementations of the other slots are written for one of them.
        positions: the form in which the agents' positions pass between the slots.
    """

    attention_format: ClassVar[str]
    positions: ClassVar[type[AgentPositions]]

    def conv(
        self, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> nn.Module:
        """A convolution of the stream."""
        return convolution(weight, bias, stride=stride, padding=padding, groups=groups)

    def pointwise(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """A linear map (out, in) of the stream's channels: a 1x1 convolution."""
        return convolution(weight[:, :, None, None], bias)

    @abstractmethod
    def to_attention(self, x: Tensor) -> Tensor:
        """Stream -> map."""

    @abstractmethod
    def to_stream(self, x: Tensor) -> Tensor:
        """Map -> stream."""

    @abstractmethod
    def attention_pointwise(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """A linear map (out, in) of a map's channels."""

    @abstractmethod
    def pad(self, x: Tensor, size: Size, padded: Size) -> Tensor:
        """Zero-pad a map right and bottom; nothing where the sizes agree."""

    @abstractmethod
    def crop(self, x: Tensor, padded: Size, size: Size) -> Tensor:
        """Undo `pad`; nothing where the sizes agree."""

    @abstractmethod
    def per_channel(self, values: Tensor) -> Tensor:
        """(C,) in the shape that broadcasts over a map."""

    @abstractmethod
    def to_groups(self, x: Tensor, groups: int) -> Tensor:
        """Stream (N, G*c, H, W) -> maps of c channels, one per group, for norms and linear maps."""

    @abstractmethod
    def from_groups(self, x: Tensor, groups: int) -> Tensor:
        """Such maps of one channel -> (N, G, H*W, 1)."""

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """Mean over positions, in the form that `attention_pointwise` reads."""

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """What the head made of the pooled stream -> (N, classes)."""
