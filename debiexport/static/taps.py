"""Tensors of a static network that are worth a stable name, collected while it runs."""

from __future__ import annotations

from torch import Tensor


class Taps(dict[str, Tensor]):
    """By stable name, in the order in which the network computes them."""

    def record(self, name: str, tensor: Tensor) -> Tensor:
        """Keep a tensor under its stable name and hand it back."""
        self[name] = tensor
        return tensor
