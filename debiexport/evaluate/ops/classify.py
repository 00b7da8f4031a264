"""The last operation of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Label = str | int


def classify(probabilities: torch.Tensor, classes: list[Label]) -> tuple[Label, dict[Label, float]]:
    """The most probable class, of ties the first one, and the probability of every class."""
    flat = probabilities.reshape(-1)
    if len(flat) != len(classes):
        raise ValueError(f"{len(flat)} probabilities of {len(classes)} classes")
    return classes[int(flat.argmax())], dict(zip(classes, flat.tolist(), strict=True))


OPERATIONS: dict[str, Callable[..., Any]] = {"classify": classify}
