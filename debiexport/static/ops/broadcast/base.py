"""What an implementation of the broadcast slot offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.ops.heads import Heads


class Broadcast(nn.Module, ABC):
    """Every token attends to the agents, with a position bias (the last step of DBRA).

    Args:
        geometry: sizes of the attention.
        heads: implementation of the heads slot.

    Attributes:
        takes: what an implementation of the bias slot gives it, see there.
    """

    format: ClassVar[str]
    takes: ClassVar[str] = "scores"

    @staticmethod
    def supports(geometry: AttentionGeometry) -> str | None:
        """None, or why this implementation cannot serve the geometry."""
        return None

    @abstractmethod
    def __init__(self, geometry: AttentionGeometry, heads: type[Heads]) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Queries q of the stream (N, C, H, W), k and v as maps of agents, the bias of the same format -> a map."""
