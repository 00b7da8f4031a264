"""Uses of region attention: their sizes, inputs and results."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from debiexport.cards import load_card
from debiexport.geometry import Geometry
from debiexport.plugins.region_attention.sizes import Sizes

Array = np.ndarray[Any, Any]
_NUMPY = {"fp32": np.float32, "fp16": np.float16}


@dataclass(frozen=True)
class Case:
    """A use of region attention: see `Sizes` for what the numbers are."""

    batch: int
    heads: int
    head_width: int
    regions: int
    query_size: tuple[int, int]
    key_size: tuple[int, int]
    top_k: int

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of q, k, v and the routes."""
        channels = self.heads * self.head_width
        keys = (self.batch, *self.key_size, channels)
        return (self.batch, *self.query_size, channels), keys, keys, (self.batch, self.regions**2, self.top_k)

    def sizes(self, dtype: str) -> Sizes:
        return Sizes.of(*self.shapes(), heads=self.heads, regions=self.regions, dtype=dtype)

    def inputs(self, dtype: str) -> tuple[Array, ...]:
        """q (scaled: scores are some units wide), k, v, and routes without repetition; always the same."""
        rng = np.random.default_rng(3)
        *maps, routes = self.shapes()
        q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in maps)
        order = np.argsort(rng.random((*routes[:2], routes[1])), -1)[..., : self.top_k]
        q = q * np.float32(2 / sqrt(self.head_width))
        return *(x.astype(_NUMPY[dtype]) for x in (q, k, v)), np.ascontiguousarray(order, np.int32)


def reference(q: Array, k: Array, v: Array, routes: Array, heads: int, regions: int) -> Array:
    """The result in float64, region by region as it is defined."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.full(q.shape, np.nan)
    for image, region in np.ndindex(routes.shape[:2]):
        keys = np.concatenate([_tile(k[image], route, regions) for route in routes[image, region]])
        values = np.concatenate([_tile(v[image], route, regions) for route in routes[image, region]])
        queries = _tile(q[image], region, regions)
        parts = [x.reshape(len(x), heads, -1) for x in (queries, keys, values)]
        scores = np.einsum("qmd,kmd->mqk", *parts[:2])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("mqk,kmd->qmd", weights / weights.sum(-1, keepdims=True), parts[2])
        place = out[image][_span(q.shape[1], region // regions, regions), _span(q.shape[2], region % regions, regions)]
        place[...] = attended.reshape(place.shape)
    return out


def _tile(array: Array, region: int, regions: int) -> Array:
    """Tokens (h*w, C) of a region of (H, W, C)."""
    rows, columns = (_span(array.shape[axis], place, regions) for axis, place in enumerate(divmod(region, regions)))
    return array[rows, columns].reshape(-1, array.shape[-1])


def _span(side: int, place: int, regions: int) -> slice:
    return slice(place * side // regions, (place + 1) * side // regions)


def cases_of(name: str, image_size: tuple[int, int] = (224, 224)) -> list[Case]:
    """Every use of a card, each once."""
    routed = Geometry.of(load_card(name), image_size).routed
    cases = (Case(1, g.heads, g.head_width, g.regions, g.query_size, g.padded_size, g.top_k) for g in routed)
    return list(dict.fromkeys(cases))
