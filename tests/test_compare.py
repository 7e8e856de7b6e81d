"""The measure by which results are judged: it is large where they differ, whatever hides it elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from specc.compare import difference, finite, relative_error

ONES = np.ones(4)
HALF = np.array([1.0, 1.0, 1.0, 0.5])


def test_a_difference_is_measured_by_the_greatest_element() -> None:
    assert difference(np.array([100.0, 0.5]), np.array([100.0, 0.0])) == 0.5 / 100
    assert difference(HALF, ONES) == 0.5 and difference(ONES, HALF) == 0.5
    assert difference(ONES.astype(np.float32), ONES) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_infinities_and_no_numbers_stand_at_the_same_places(value: float) -> None:
    there, beside = np.array([1.0, value]), np.array([value, 1.0])
    assert difference(there, there) == 0.0
    for wrong in (beside, ONES[:2], np.array([1.0, math.inf if value != math.inf else math.nan])):
        assert difference(wrong, there) == difference(there, wrong) == math.inf


def test_what_is_finite_counts_beside_infinities() -> None:
    assert difference(np.array([2.0, math.inf]), np.array([1.0, math.inf])) == 1.0


@pytest.mark.parametrize("measure", [difference, relative_error])
def test_other_shapes_are_infinitely_apart_though_they_could_be_broadcast(measure: object) -> None:
    assert callable(measure)
    assert measure(np.ones((1, 4)), ONES) == measure(np.ones(1), ONES) == math.inf


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_are_equal_or_infinitely_apart(dtype: str) -> None:
    expected = np.array([1, 0, 1], dtype)
    assert difference(expected.copy(), expected) == 0.0
    assert difference(np.array([1, 1, 1], dtype), expected) == math.inf


@pytest.mark.parametrize("measure", [difference, relative_error])
def test_nothing_is_near_to_zeros_but_zeros(measure: object) -> None:
    assert callable(measure)
    assert measure(np.zeros(3), np.zeros(3)) == measure(np.zeros(0), np.zeros(0)) == 0.0
    assert measure(np.array([0.0, 1e-30, 0.0]), np.zeros(3)) == math.inf


def test_an_error_is_that_of_all_elements_together() -> None:
    assert relative_error(HALF, ONES) == 0.25
    assert relative_error(ONES, ONES) == 0.0


def test_json_has_no_infinities() -> None:
    assert finite(0.5) == 0.5 and finite(math.inf) is None and finite(math.nan) is None
