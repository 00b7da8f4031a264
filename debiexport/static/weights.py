"""Folded weights, addressed by the stable name of the place that uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor


class Weights(Mapping[str, Tensor]):
    """A view of a flat dict of tensors below a prefix.

    `weights.at("stage1.block1")["mlp1.linear1.weight"]` is the tensor `stage1.block1.mlp1.linear1.weight`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors, self._prefix = tensors, prefix

    def at(self, name: str) -> Weights:
        return Weights(self._tensors, f"{self._prefix}{name}.")

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return (k.removeprefix(self._prefix) for k in self._tensors if k.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)
