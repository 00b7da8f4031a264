"""Uses of agent attention: their sizes, inputs and results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from debiexport.cards import load_card
from debiexport.geometry import Geometry
from debiexport.plugins.agent_attention.sizes import Sizes

Array = np.ndarray[Any, Any]
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}  # of the largest number
_NUMPY = {"fp32": np.float32, "fp16": np.float16}


@dataclass(frozen=True)
class Case:
    """A use of agent attention: see `Sizes` for what the numbers are."""

    batch: int
    heads: int
    head_width: int
    groups: int
    token_size: tuple[int, int]
    agent_size: tuple[int, int]
    table_side: int

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of q, k, v, the positions and the table."""
        channels, side = self.heads * self.head_width, 2 * self.table_side - 1
        agents = (self.batch, *self.agent_size, channels)
        positions = (self.batch, self.groups, self.agent_size[0] * self.agent_size[1], 2)
        return (self.batch, *self.token_size, channels), agents, agents, positions, (self.heads, side, side)

    def sizes(self, dtype: str) -> Sizes:
        return Sizes.of(*self.shapes(), heads=self.heads, dtype=dtype)

    def inputs(self, dtype: str) -> tuple[Array, ...]:
        """q, k, v, positions and a table (scores of several units), always the same.

        Some agents lie in the corners, and on the edges because they were clamped; the last ones lie in the middle, as
        agents that are padding do.
        """
        rng = np.random.default_rng(4)
        *maps, places, table = self.shapes()
        positions = rng.uniform(-1.3, 1.3, places).clip(-1, 1).astype(np.float32)
        corners = np.array([[-1, -1], [1, 1], [-1, 1], [1, -1]])[: places[2]]
        positions[:, :, : len(corners)] = corners
        positions[:, :, 6:][:, :, -3:] = 0
        values = (rng.standard_normal(shape).astype(_NUMPY[dtype]) for shape in maps)
        return *values, positions, rng.standard_normal(table).astype(np.float32)


def reference(q: Array, k: Array, v: Array, positions: Array, table: Array) -> Array:
    """The result in float64, with the bias as the released code samples it."""
    n, height, width, _ = q.shape
    heads, groups, agents = len(table), positions.shape[1], positions.shape[2]
    queries, keys, values, places, tables = (torch.from_numpy(x).double() for x in (q, k, v, positions, table))
    y, x = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in (height, width))
    tokens = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, 1, -1, 1, 2)
    grid = ((tokens - places.unsqueeze(2)) / 2).flatten(0, 1)  # (N*G, H*W, n, 2)
    tables = tables.unflatten(0, (groups, -1)).repeat(n, 1, 1, 1)  # (N*G, M/G, 2q-1, 2q-1)
    bias = F.grid_sample(tables, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    queries, keys, values = (x.flatten(1, 2).unflatten(-1, (heads, -1)) for x in (queries, keys, values))
    scores = torch.einsum("nimd,njmd->nmij", queries, keys) + bias.reshape(n, heads, height * width, agents)
    return torch.einsum("nmij,njmd->nimd", scores.softmax(-1), values).reshape(q.shape).numpy()


def error(out: Array, expected: Array) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(out - expected).max() / np.abs(expected).max())


def cases_of(name: str, image_size: tuple[int, int] = (224, 224)) -> list[Case]:
    """Every use of a card, each once."""
    cases = []
    for g in Geometry.of(load_card(name), image_size).attentions.values():
        if g.kind == "dbra":
            assert g.padded_agent_size
            assert g.stage.offset_groups
            assert g.stage.table_side
            agents, groups, side = g.padded_agent_size, g.stage.offset_groups, g.stage.table_side
            cases.append(Case(1, g.heads, g.head_width, groups, g.padded_size, agents, side))
    return list(dict.fromkeys(cases))
