from __future__ import annotations

import numpy as np
import pytest

from debiexport.cards import Card
from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.routes import (
    are_valid,
    as_routes,
    compare_routes,
    forceable,
    route_gaps,
    route_margins,
    route_sets,
    top_k_routes,
)


@pytest.fixture
def chooses_two(tiny_card: Card) -> AttentionGeometry:
    """Four regions, two of them chosen."""
    return Geometry.of(tiny_card, (64, 64)).attentions["stage2.block1.attn1"]


def _affinity(*rows: list[float]) -> np.ndarray:
    """One image; the rows that are not given choose regions 0 and 1 clearly."""
    clear = [9.0, 8.0, 1.0, 0.0]
    return np.array([[*rows, *[clear] * (4 - len(rows))]])


def test_equal_sets_in_any_order(chooses_two: AttentionGeometry) -> None:
    affinity = _affinity([1.0, 2.0, 3.0, 4.0])
    routes = top_k_routes(affinity, 2)
    assert routes[0, 0].tolist() == [3, 2]
    count = compare_routes(routes[..., ::-1], affinity, chooses_two, 0.0)
    assert (count.rows, count.near_ties, count.wrong, count.agreement) == (4, 0, 0, 1.0)


@pytest.mark.parametrize(("tie_limit", "near", "wrong"), [(0.011, 1, 0), (0.009, 0, 1), (0.0, 0, 1)])
def test_a_swap_is_a_near_tie_only_within_rounding(
    chooses_two: AttentionGeometry, tie_limit: float, near: int, wrong: int
) -> None:
    affinity = _affinity([5.0, 1.01, 1.0, 0.0])
    routes = top_k_routes(affinity, 2)
    routes[0, 0] = [0, 2]
    count = compare_routes(routes, affinity, chooses_two, tie_limit)
    assert (count.near_ties, count.wrong) == (near, wrong)
    assert count.worst_gap == pytest.approx(0.01)
    assert count.agreement == 0.75


def test_swapping_the_best_region_is_judged_by_its_own_gap(chooses_two: AttentionGeometry) -> None:
    """A close k-th and (k+1)-th do not excuse that the best region was left out."""
    affinity = _affinity([5.0, 1.01, 1.0, 0.0])
    routes = top_k_routes(affinity, 2)
    routes[0, 0] = [1, 2]
    count = compare_routes(routes, affinity, chooses_two, 0.1)
    assert (count.near_ties, count.wrong) == (0, 1)


@pytest.mark.parametrize("row", [[0, 0], [0, 4], [-1, 2]])
def test_what_is_no_set_of_regions_is_wrong(chooses_two: AttentionGeometry, row: list[int]) -> None:
    affinity = _affinity([0.0, 0.0, 0.0, 0.0])
    routes = top_k_routes(affinity, 2)
    routes[0, 1] = row
    assert not are_valid(routes, chooses_two)[0, 1]
    count = compare_routes(routes, affinity, chooses_two, 100.0)
    assert (count.near_ties, count.wrong) == (0, 1)


def test_another_number_of_regions_is_no_choice(chooses_two: AttentionGeometry) -> None:
    """A mask takes any number of them, so an artifact may show it."""
    routes = as_routes(np.zeros((1, 4, 3), np.int64), chooses_two)
    assert routes.shape == (1, 4, 2)
    assert not are_valid(routes, chooses_two).any()
    assert (forceable(routes, chooses_two) == [0, 1]).all()


def test_only_what_is_no_choice_is_replaced(chooses_two: AttentionGeometry) -> None:
    routes = np.array([[[3, 1], [2, 2], [0, 4], [1, 0]]])
    np.testing.assert_array_equal(forceable(routes, chooses_two), [[[3, 1], [0, 1], [0, 1], [1, 0]]])


def test_margins(chooses_two: AttentionGeometry) -> None:
    affinity = _affinity([4.0, 2.0, 1.0, 0.0])
    assert route_gaps(affinity, chooses_two)[0, 0] == 1.0
    assert route_margins(affinity, chooses_two)[0, 0] == 0.25


@pytest.fixture
def with_padding(tiny_card: Card) -> AttentionGeometry:
    """Three regions a side over a map of 4 x 4 tokens, padded to 6 x 6; the last row and column are padding."""
    card = tiny_card.with_options(regions=3, top_k=(2, 4, 4, 4), bra_top_k=(2, 4, 4))
    geometry = Geometry.of(card, (64, 64)).attentions["stage3.block1.attn1"]
    assert geometry.padding_regions == {2, 5, 6, 7, 8}
    return geometry


def test_regions_of_padding_are_interchangeable(with_padding: AttentionGeometry) -> None:
    affinity = np.zeros((1, 9, 9))
    affinity[:, :, [0, 1]] = 1.0  # then ties: the padding, and regions 3 and 4 below it
    affinity[:, :, [3, 4]] = -1.0
    routes = top_k_routes(affinity, 4)
    swapped = routes.copy()
    swapped[0, :, 2:] = [7, 8]
    assert (route_sets(routes, with_padding) == route_sets(swapped, with_padding)).all()
    count = compare_routes(swapped, affinity, with_padding, 0.0)
    assert (count.near_ties, count.wrong) == (0, 0)
    assert np.isinf(route_gaps(affinity, with_padding)).all()


def test_padding_taken_for_a_real_region_is_wrong(with_padding: AttentionGeometry) -> None:
    affinity = np.zeros((1, 9, 9))
    affinity[:, :, [0, 1, 3]] = 1.0
    affinity[:, :, 4] = 0.5
    routes = top_k_routes(affinity, 4)
    routes[0, 0] = [0, 1, 3, 8]
    count = compare_routes(routes, affinity, with_padding, 0.1)
    assert (count.near_ties, count.wrong, count.worst_gap) == (0, 1, 0.5)


def test_a_near_tie_beside_swapped_padding_stays_a_near_tie(with_padding: AttentionGeometry) -> None:
    """One region of padding for another cancels, whatever its affinity."""
    affinity = np.full((1, 9, 9), -5.0)
    affinity[:, :, [2, 5, 6, 7, 8]] = 3.0  # padding is best here
    affinity[:, :, 0], affinity[:, :, 1] = 1.0, 0.999
    card_k = with_padding.top_k
    routes = top_k_routes(affinity, card_k)
    count = compare_routes(routes, affinity, with_padding, 0.0)
    assert count.wrong == 0
    affinity[:, :, [2, 5, 6]] = -9.0  # now two of padding and regions 0 and 1, then the rest
    affinity[:, :, [7, 8]] = 3.0
    affinity[:, :, 3] = 0.9985
    routes = top_k_routes(affinity, card_k)
    routes[0, 0] = [6, 7, 0, 3]
    count = compare_routes(routes, affinity, with_padding, 0.01)
    assert (count.near_ties, count.wrong) == (1, 0)
