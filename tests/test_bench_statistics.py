"""Order-statistic intervals against brute force and simulation, summaries, and the paired bootstrap."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from debiexport.bench.statistics import Estimate, order_ranks, paired_ratio, quantile, summarise


def binomial_below(n: int, p: float, rank: int) -> float:
    """P(B < rank), term by term."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(rank))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 5, 6, 29, 100, 367, 368, 400])
def test_ranks_by_brute_force(n: int, p: float) -> None:
    lower = [rank for rank in range(1, n + 1) if binomial_below(n, p, rank) <= 0.025]
    upper = [rank for rank in range(1, n + 1) if 1 - binomial_below(n, p, rank) <= 0.025]
    assert order_ranks(n, p) == (max(lower, default=None), min(upper, default=None))


def test_known_ranks() -> None:
    assert order_ranks(100, 0.5) == (40, 61)  # the classic table of the median
    assert order_ranks(5, 0.5) == (None, None)
    assert order_ranks(6, 0.5) == (1, 6)
    assert order_ranks(367, 0.99)[1] is None
    assert order_ranks(368, 0.99)[1] == 368
    assert order_ranks(0, 0.5) == (None, None)


def test_ranks_of_many_observations() -> None:
    low, high = order_ranks(200_000, 0.5)
    assert low is not None and high is not None
    half = 1.959964 * math.sqrt(200_000) / 2  # the normal approximation
    assert abs((high - low) - 2 * half) < 3


@pytest.mark.parametrize(("p", "n"), [(0.5, 60), (0.9, 200), (0.99, 500)])
def test_coverage_of_the_interval(p: float, n: int) -> None:
    """The interval holds the true quantile in at least 95 % of the series, whatever the distribution."""
    random = np.random.default_rng(7)
    series = np.sort(random.lognormal(0, 1, (4000, n)), axis=1)
    low, high = order_ranks(n, p)
    assert low is not None and high is not None
    truth = math.exp({0.5: 0.0, 0.9: 1.2815516, 0.99: 2.3263479}[p])
    covered = ((series[:, low - 1] <= truth) & (truth <= series[:, high - 1])).mean()
    assert 0.94 <= covered <= 0.99


def test_quantile_with_an_open_side() -> None:
    estimate = quantile(np.arange(1.0, 101.0), 0.99)
    assert estimate.value == pytest.approx(99.01)
    assert estimate.low is not None and estimate.high is None
    assert estimate.width == math.inf
    assert str(estimate).endswith("?]")
    assert Estimate(10.0, 9.0, 11.0).width == pytest.approx(0.2)


def test_summary_keeps_outliers() -> None:
    samples = np.array([*np.linspace(9, 11, 999), 500.0])
    summary = summarise(samples)
    assert (summary.n, summary.min_ms, summary.max_ms) == (1000, 9.0, 500.0)
    assert summary.mean_ms == pytest.approx(samples.mean())
    assert summary.std_ms == pytest.approx(samples.std(ddof=1))
    assert summary.cv == pytest.approx(summary.std_ms / summary.mean_ms)
    assert summary.p50.value == pytest.approx(np.median(samples))
    assert summary.p999 is None
    assert sum(summary.histogram) + summary.beyond_histogram == 1000
    assert summary.beyond_histogram == 10
    json.dumps(summary.to_dict(), allow_nan=False)


def test_p999_from_ten_thousand_on() -> None:
    assert summarise(np.ones(9_999)).p999 is None
    assert summarise(np.ones(10_000)).p999 == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize("samples", [[5.0], [5.0, 5.0], [0.0, 0.0]])
def test_summary_of_next_to_nothing(samples: list[float]) -> None:
    summary = summarise(np.array(samples))
    assert summary.std_ms == 0
    assert sum(summary.histogram) == len(samples)
    json.dumps(summary.to_dict(), allow_nan=False)


def test_ratio_cancels_drift() -> None:
    """Both subjects slow down threefold along the way; the paired interval hardly notices."""
    random = np.random.default_rng(3)
    drift = np.linspace(1, 3, 40)
    fast = [d * random.normal(10, 0.1, 20) for d in drift]
    slow = [d * random.normal(25, 0.25, 20) for d in drift]
    ratio = paired_ratio(slow, fast)
    assert ratio.low is not None and ratio.high is not None
    assert ratio.low <= 2.5 <= ratio.high
    assert ratio.width < 0.05
    assert paired_ratio(slow, fast) == ratio  # seeded


def test_ratio_by_brute_force() -> None:
    random = np.random.default_rng(4)
    above, below = ([random.uniform(1, 2, size) for size in (3, 8, 5)] for _ in range(2))
    picks = np.random.default_rng(11)
    ratios = []
    for _ in range(50):
        chosen = picks.integers(0, 3, 3)
        medians = [np.median(np.concatenate([blocks[i] for i in chosen])) for blocks in (above, below)]
        ratios.append(medians[0] / medians[1])
    expected = np.quantile(ratios, [0.025, 0.975])
    found = paired_ratio(above, below, resamples=50, seed=11)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_ratio_of_one_block_has_no_interval() -> None:
    assert paired_ratio([np.array([2.0])], [np.array([1.0])]) == Estimate(2.0, None, None)
    with pytest.raises(ValueError, match="beside"):
        paired_ratio([np.ones(2)], [])
