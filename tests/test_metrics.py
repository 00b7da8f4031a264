from __future__ import annotations

import math

import numpy as np
import pytest

from debiexport.metrics import cosine, psnr_db, relative_error, top_agreement, top_classes


def test_relative_error_is_of_the_largest_value() -> None:
    assert relative_error(np.array([1.0, -3.5]), np.array([1.5, -4.0])) == pytest.approx(0.125)
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.ones(3), np.zeros(3)) == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_finite_is_close(bad: float) -> None:
    a = np.array([1.0, bad])
    assert relative_error(a, np.array([1.0, 2.0])) == math.inf
    assert psnr_db(a, np.array([1.0, 2.0])) == -math.inf


def test_psnr() -> None:
    assert psnr_db(np.array([1.0, 9.0]), np.array([0.0, 10.0])) == pytest.approx(20)
    assert psnr_db(np.ones(4), np.ones(4)) == math.inf
    assert psnr_db(np.ones(4), np.zeros(4)) == -math.inf


def test_cosine() -> None:
    assert cosine(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0]])) == pytest.approx(1)
    assert cosine(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0
    assert math.isnan(cosine(np.zeros(2), np.ones(2)))


def test_top_classes_break_ties_by_index() -> None:
    assert top_classes(np.array([[1.0, 3.0, 3.0, 2.0]]), 3).tolist() == [[1, 2, 3]]
    assert top_classes(np.zeros((1, 2)), 5).tolist() == [[0, 1]]


def test_top_agreement_compares_sets() -> None:
    a, b = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), np.array([[2.0, 3.0, 1.0], [1.0, 2.0, 3.0]])
    assert top_agreement(a, b, 1) == 0.5
    assert top_agreement(a, b, 2) == 1.0
