"""What is said of a series of latencies: order statistics with intervals, and ratios with a paired bootstrap.

An interval of a quantile consists of two observations: the number of observations below the quantile is
binomial, whatever the distribution of the latencies. It assumes that they are independent; on a machine
whose speed drifts they are not quite, and the interval is then too narrow. The bootstrap of a ratio draws
whole blocks of runs, and both sides of a ratio together, so that drift does not matter there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
P999_COUNT = 10_000
RESAMPLES = 2000
SEED = 20250

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; a side of the interval is None where there are too few observations."""

    value: float
    low: float | None
    high: float | None

    @property
    def width(self) -> float:
        """Width of the interval over the value; infinite where a side is open."""
        if self.low is None or self.high is None or self.value <= 0:
            return math.inf
        return (self.high - self.low) / self.value

    def to_dict(self) -> dict[str, Any]:
        return {"value": plain(self.value), "low": plain(self.low), "high": plain(self.high)}

    def __str__(self) -> str:
        low, high = ("?" if side is None else f"{side:.3g}" for side in (self.low, self.high))
        return f"{self.value:.3g} [{low}, {high}]"


@dataclass(frozen=True)
class Summary:
    """Latencies in milliseconds; every observation counts, outliers too.

    Attributes:
        n: observations.
        cv: coefficient of variation, standard deviation over mean.
        p999: None below 10,000 observations.
        histogram: counts in equal bins from the smallest observation to the p99.
        beyond_histogram: observations above the p99's bin.
    """

    n: int
    min_ms: float
    max_ms: float
    mean_ms: float
    std_ms: float
    cv: float
    p50: Estimate
    p90: Estimate
    p99: Estimate
    p999: Estimate | None
    histogram: tuple[int, ...]
    beyond_histogram: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "min_ms": plain(self.min_ms),
            "max_ms": plain(self.max_ms),
            "mean_ms": plain(self.mean_ms),
            "std_ms": plain(self.std_ms),
            "cv": plain(self.cv),
            "p50_ms": self.p50.to_dict(),
            "p90_ms": self.p90.to_dict(),
            "p99_ms": self.p99.to_dict(),
            "p99_9_ms": None if self.p999 is None else self.p999.to_dict(),
            "histogram": {"bins": list(self.histogram), "from": "min", "to": "p99", "beyond": self.beyond_histogram},
        }


def plain(value: float | None) -> float | None:
    """A JSON number of six digits; None for what JSON has no number for."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


@lru_cache(maxsize=1024)
def order_ranks(n: int, p: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the observations that enclose the p-quantile with the given confidence.

    With B the number of n observations below the quantile, binomial(n, p), the lower rank is the largest l
    with P(B < l) <= a/2, the upper the smallest u with P(B >= u) <= a/2, a = 1 - confidence. None where no
    observation is extreme enough.
    """
    if n < 1:
        return None, None
    tail = (1 - confidence) / 2
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    log_pmf = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * math.log(p) + (n - k) * math.log1p(-p)
    pmf = np.exp(log_pmf)
    below = np.cumsum(pmf)  # P(B <= k)
    above = np.cumsum(pmf[::-1])[::-1]  # P(B >= k)
    low = int((below <= tail).sum())
    high = int((above > tail).sum())  # above falls from 1: the first index with P(B >= index) <= tail
    return (low or None), (high if high <= n else None)


def quantile(ordered: Samples, p: float) -> Estimate:
    """The p-quantile of sorted observations, interpolated, and its interval."""
    low, high = order_ranks(len(ordered), p)
    return Estimate(
        float(np.quantile(ordered, p)),
        None if low is None else float(ordered[low - 1]),
        None if high is None else float(ordered[high - 1]),
    )


def summarise(samples_ms: Samples, bins: int = 40) -> Summary:
    """Everything that is said of at least one latency."""
    ordered = np.sort(samples_ms)
    n, mean = len(ordered), float(ordered.mean())
    std = float(ordered.std(ddof=1)) if n > 1 else 0.0
    p99 = quantile(ordered, 0.99)
    inside = ordered[ordered <= p99.value] if n > 1 else ordered
    counts, _ = np.histogram(inside, bins=bins, range=(float(ordered[0]), max(p99.value, float(ordered[0]) * 1.001)))
    return Summary(
        n=n,
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        mean_ms=mean,
        std_ms=std,
        cv=std / mean if mean > 0 else 0.0,
        p50=quantile(ordered, 0.5),
        p90=quantile(ordered, 0.9),
        p99=p99,
        p999=quantile(ordered, 0.999) if n >= P999_COUNT else None,
        histogram=tuple(map(int, counts)),
        beyond_histogram=n - len(inside),
    )


def paired_ratio(
    above: Sequence[Samples], below: Sequence[Samples], resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """Ratio of the p50 of two subjects whose blocks were run in turn, with a paired bootstrap over the blocks.

    Args:
        above, below: blocks of latencies; block i of one was run beside block i of the other.
        resamples: of the blocks.
        seed: of their choice.

    Returns:
        The ratio; its interval is open with fewer than two blocks.
    """
    if len(above) != len(below) or not above:
        raise ValueError(f"{len(above)} blocks beside {len(below)}")
    value = float(np.median(np.concatenate(above)) / np.median(np.concatenate(below)))
    count = len(above)
    if count < 2:
        return Estimate(value, None, None)
    random = np.random.default_rng(seed)
    upper, lower = _WeightedMedian(above), _WeightedMedian(below)
    ratios = np.empty(resamples)
    for i in range(resamples):
        weights = np.bincount(random.integers(0, count, count), minlength=count)
        ratios[i] = upper.of(weights) / lower.of(weights)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


class _WeightedMedian:
    """The median of blocks of which each is taken a number of times; sorted once for all resamples."""

    def __init__(self, blocks: Sequence[Samples]) -> None:
        values = np.concatenate(blocks)
        owners = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
        order = np.argsort(values, kind="stable")
        self._values, self._owners = values[order], owners[order]

    def of(self, weights: npt.NDArray[np.int64]) -> float:
        total = np.cumsum(weights[self._owners])
        middle = float(total[-1]) / 2
        low, high = np.searchsorted(total, [middle, math.floor(middle) + 1])
        return float(self._values[low] + self._values[high]) / 2
