"""Comparing routes: which regions an artifact chose, which the reference would have, and why they differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from debiexport.geometry import AttentionGeometry
from debiexport.runtimes.base import Array


@dataclass(frozen=True)
class RouteCount:
    """Outcome of comparing the routes of one attention, row by row (a row is a query region of an image).

    Attributes:
        rows: rows compared.
        near_ties: rows whose sets differ by no more than rounding explains.
        wrong: rows whose sets differ by more, or that are no set of regions at all.
        worst_gap: largest difference of affinity between a region left out and one taken instead.
        min_margin: smallest margin of a reference row, relative to its spread.
    """

    rows: int
    near_ties: int
    wrong: int
    worst_gap: float
    min_margin: float

    @property
    def agreement(self) -> float:
        """Share of rows whose sets are equal."""
        return (self.rows - self.near_ties - self.wrong) / self.rows


def as_routes(tensor: Array, geometry: AttentionGeometry) -> Array:
    """Routes (N, R, k) from what an artifact shows under the name of its routes.

    Lowerings without an index show floats: a mask (N, R, R), 1 where a region was chosen, or one-hot rows
    (N, R, k, R). A row that does not choose exactly k, or a one-hot row that is none, makes the routes invalid.
    """
    k = geometry.top_k
    if not np.issubdtype(tensor.dtype, np.floating):
        return tensor if tensor.shape[-1] == k else np.full((*tensor.shape[:-1], k), -1)
    chosen = tensor > 0.5
    if tensor.ndim == 4:
        return np.where((chosen.sum(-1) == 1), chosen.argmax(-1), -1)
    routes = np.argsort(~chosen, axis=-1, kind="stable")[..., :k]
    return np.where((chosen.sum(-1) == k)[..., None], routes, -1)


def route_sets(routes: Array, geometry: AttentionGeometry) -> Array:
    """Routes (N, R, k) as sorted rows in which all regions that are padding throughout are one region.

    They hold identical keys, so which of them is taken makes no difference.
    """
    merged = np.arange(geometry.region_count)
    padding = sorted(geometry.padding_regions)
    if padding:
        merged[padding] = padding[0]
    return np.sort(merged[routes], axis=-1)


def are_valid(routes: Array, geometry: AttentionGeometry) -> Array:
    """(N, R) bool: whether each row holds k different regions that exist."""
    ordered = np.sort(routes, axis=-1)
    inside = (ordered[..., 0] >= 0) & (ordered[..., -1] < geometry.region_count)
    distinct = (np.diff(ordered, axis=-1) != 0).all(-1)
    return np.asarray(inside & distinct)


def forceable(routes: Array, geometry: AttentionGeometry) -> Array:
    """Routes (N, R, k) that can be forced: invalid rows, which are counted as wrong, become the first k regions."""
    valid = are_valid(routes, geometry)
    return np.where(valid[..., None], routes, np.arange(geometry.top_k))


def top_k_routes(affinity: Array, k: int) -> Array:
    """Indices (N, R, k) of the k largest affinities of each row, largest first."""
    return np.argsort(-affinity, axis=-1, kind="stable")[..., :k]


def compare_routes(routes: Array, affinity: Array, geometry: AttentionGeometry, tie_limit: float) -> RouteCount:
    """Compare an artifact's routes with what the reference's affinities choose.

    Args:
        routes: (N, R, k) of the artifact.
        affinity: (N, R, R) of the reference in the run that was forced to the artifact's routes, so
            nothing upstream differs.
        geometry: of this attention.
        tie_limit: largest difference of affinity that rounding explains, in the affinity's own unit.
    """
    k = geometry.top_k
    expected = top_k_routes(affinity, k)
    valid = are_valid(routes, geometry)
    safe = np.where(valid[..., None], routes, expected)
    differs = (route_sets(safe, geometry) != route_sets(expected, geometry)).any(-1)
    padding = geometry.padding_regions
    gaps = [_gap(affinity[n, r], expected[n, r], safe[n, r], padding) for n, r in np.argwhere(differs)]
    near = sum(gap <= tie_limit for gap in gaps)
    return RouteCount(
        rows=int(valid.size),
        near_ties=near,
        wrong=len(gaps) - near + int((~valid).sum()),
        worst_gap=max(gaps, default=0.0),
        min_margin=float(route_margins(affinity, geometry).min()),
    )


def route_gaps(affinity: Array, geometry: AttentionGeometry) -> Array:
    """Gap between the k-th and (k+1)-th affinity of each row: (N, R, R) -> (N, R), in the affinity's unit.

    Infinite where both are regions of padding only: which of them is taken makes no difference.
    """
    k = geometry.top_k
    order = np.argsort(-affinity, axis=-1, kind="stable")[..., k - 1 : k + 1]
    values = np.take_along_axis(affinity, order, axis=-1)
    immaterial = np.isin(order, sorted(geometry.padding_regions)).all(-1)
    return np.where(immaterial, np.inf, values[..., 0] - values[..., 1])


def route_margins(affinity: Array, geometry: AttentionGeometry) -> Array:
    """`route_gaps` over the spread (max - min) of each row: (N, R, R) -> (N, R)."""
    width = affinity.max(-1) - affinity.min(-1)
    return np.asarray(route_gaps(affinity, geometry) / np.maximum(width, np.finfo(affinity.dtype).tiny))


def _gap(affinity: Array, expected: Array, chosen: Array, padding: frozenset[int]) -> float:
    """How much better the best region left out is than the worst region taken instead."""
    left_out = list(np.setdiff1d(expected, chosen))
    instead = list(np.setdiff1d(chosen, expected))
    # One region of padding for another is no difference: such pairs cancel.
    pairs = min(sum(i in padding for i in left_out), sum(i in padding for i in instead))
    for regions in (left_out, instead):
        for region in [i for i in regions if i in padding][:pairs]:
            regions.remove(region)
    return float(affinity[left_out].max() - affinity[instead].min())
