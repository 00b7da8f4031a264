"""Weights and inputs of the released implementations' golden files; see golden/README.md for the rules."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from debiexport.cards import Card, load_card
from debiexport.reference.network import ReferenceNetwork

GOLDEN = Path(__file__).parent / "golden"
CASES = tuple(sorted(path.stem for path in GOLDEN.glob("*.npz")))

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


def released_shapes() -> dict[str, dict[str, tuple[Shape, str]]]:
    """(shape, dtype) of every tensor of the released networks, by model and key."""
    models = json.loads(gzip.decompress((GOLDEN / "state_dicts.json.gz").read_bytes()))
    return {
        model: {key: (tuple(shape), dtype) for key, (shape, dtype) in keys.items()} for model, keys in models.items()
    }


def released_array(key: str, shape: Shape, salt: str = "") -> Array:
    """The weights of one key."""
    last = key.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    z = np.random.default_rng(zlib.crc32((salt + key).encode())).standard_normal(shape, dtype=np.float32)
    if last == "running_var":
        return 1 + 0.25 * np.abs(z)
    if last in ("running_mean", "bias"):
        return 0.1 * z
    if last == "rpe_table":
        return 0.5 * z
    if len(shape) == 1:
        return 1 + 0.1 * z
    if "conv_offset_q.3" in key:
        return 0.1 * z
    gain = 1.0 if "qkv" in key or "head" in key else 0.4
    return np.asarray(gain * z / np.float32(math.sqrt(math.prod(shape[1:]))), np.float32)


def released_input(seed: int, batch: int, height: int, width: int) -> torch.Tensor:
    """The normalised input (batch, 3, height, width) of a golden file."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((batch, 3, 8, 8), dtype=np.float32)
    fine = rng.standard_normal((batch, 3, height, width), dtype=np.float32)
    repeats = np.ones((-(-height // 8), -(-width // 8)), np.float32)
    return torch.from_numpy(np.kron(coarse, repeats)[:, :, :height, :width] + np.float32(0.3) * fine)


@dataclass(frozen=True)
class GoldenCase:
    """One golden file."""

    name: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @classmethod
    def read(cls, name: str) -> GoldenCase:
        with np.load(GOLDEN / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        return cls(name, json.loads(str(arrays.pop("meta"))), arrays)

    @property
    def card(self) -> Card:
        return load_card(self.meta["model"]).with_options(
            regions=self.meta.get("n_win"), num_classes=self.meta.get("num_classes")
        )

    def images(self) -> torch.Tensor:
        return released_input(*(self.meta[key] for key in ("seed", "batch", "height", "width")))

    def network(self) -> ReferenceNetwork:
        """The reference network with the released weights, in float32."""
        card = self.card
        state = {}
        for key, (shape, _) in released_shapes()[self.meta["model"]].items():
            shape = (card.num_classes, *shape[1:]) if key.startswith("head.") else shape
            state[key] = torch.from_numpy(released_array(key, shape, self.meta["salt"]))
        with torch.device("meta"):  # nothing is initialised only to be overwritten
            network = ReferenceNetwork(card, (self.meta["height"], self.meta["width"]))
        network.load_state_dict(state, strict=True, assign=True)
        return network


def stage_sample(stage: Array, index: int, count: int = 512) -> Array:
    """The values of a stage's output (N, C, H, W) that a golden file keeps; `index` counts from 0."""
    return stage.reshape(-1)[np.random.default_rng(index).integers(0, stage.size, count)]
