"""The functions' stated errors hold, in float32 arithmetic, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from minimax import FITS

from specc.backends.tvm import fastmath


class Numpy:
    """The primitives on float32 arrays."""

    def const(self, value: float, dtype: str) -> Any:
        return np.float32(value)

    def min(self, a: Any, b: Any) -> Any:
        return np.minimum(a, b)

    def max(self, a: Any, b: Any) -> Any:
        return np.maximum(a, b)

    def let(self, a: Any) -> Any:
        return a

    def binary(self, a: Any) -> Any:
        whole = np.rint(a)
        return whole, ((whole.astype(np.int32) + 126) << 23).view(np.float32)


K = Numpy()


def points(low: float, high: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    near_zero = np.geomspace(1e-30, 1.0, 10_001)
    return np.concatenate([np.linspace(low, high, 2_000_001), near_zero, -near_zero]).astype(np.float32)


def test_erf() -> None:
    x = points(-10, 10)
    expected = torch.erf(torch.tensor(x, dtype=torch.float64)).numpy()
    error = np.abs(fastmath.erf(K, x) - expected)
    assert error.max() <= fastmath.ERF_ERROR
    assert (error <= fastmath.ERF_ERROR * np.abs(expected)).all()


def test_tanh() -> None:
    x = points(-20, 20)
    expected = np.tanh(x.astype(np.float64))
    error = np.abs(fastmath.tanh(K, x) - expected)
    assert error.max() <= fastmath.TANH_ERROR
    assert (error <= fastmath.TANH_ERROR * np.abs(expected)).all()


def test_exp() -> None:
    x = points(-86.9, 88.7)
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(fastmath.exp(K, x) - expected) <= fastmath.EXP_ERROR * expected).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_exp_of_great_numbers() -> None:
    x = np.array([-np.inf, -1e30, -104.0, 88.722, 88.73, 89.0, 1e30, np.inf], np.float32)
    y = fastmath.exp(K, x)
    assert (y[:3] == 0).all()
    assert np.isfinite(y[3]) and (y[4:] == np.inf).all()


@pytest.mark.parametrize("name", ["erf", "normal", "tanh", "exp", "coarse_exp", "sigmoid", "silu"])
def test_of_nan(name: str) -> None:
    nan = np.array([np.nan, -np.nan], np.float32)
    with np.errstate(invalid="ignore"):
        assert np.isnan(getattr(fastmath, name)(K, nan)).all()


def test_coarse_exp() -> None:
    x = points(-86.9, 0)
    x = x[x <= 0]
    expected = np.exp(x.astype(np.float64))
    assert (np.abs(fastmath.coarse_exp(K, x) - expected) <= fastmath.COARSE_EXP_ERROR * expected).all()
    assert (fastmath.coarse_exp(K, np.array([-np.inf, -1e30, -104.0], np.float32)) == 0).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_sigmoid() -> None:
    x = points(-100, 100)
    expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    error = np.abs(fastmath.sigmoid(K, x) - expected)
    assert error.max() <= fastmath.SIGMOID_ERROR
    inside = x > -86.9
    assert (error <= fastmath.SIGMOID_RELATIVE_ERROR * expected)[inside].all()


def test_silu() -> None:
    x = points(-86.9, 100)
    expected = x / (1 + np.exp(-x.astype(np.float64)))
    assert (np.abs(fastmath.silu(K, x) - expected) <= fastmath.SIGMOID_RELATIVE_ERROR * np.abs(expected)).all()


def test_normal() -> None:
    x = points(-20, 20)
    expected = torch.special.ndtr(torch.tensor(x, dtype=torch.float64)).numpy()
    assert np.abs(fastmath.normal(K, x) - expected).max() <= fastmath.NORMAL_ERROR


def test_coarse_normal() -> None:
    x = points(-20, 20)
    expected = x * torch.special.ndtr(torch.tensor(x, dtype=torch.float64)).numpy()
    assert np.abs(x * fastmath.coarse_normal(K, x) - expected).max() <= fastmath.COARSE_NORMAL_ERROR
    great = np.array([-3e38, -1e4, 1e4, 3e38], np.float32)
    assert (great * fastmath.coarse_normal(K, great) == np.maximum(great, 0)).all()


EDGES = np.array([np.inf, 3e38, 1e30, 1e-40, 0.0, -0.0, -1e-40, -1e30, -3e38, -np.inf], np.float32)
"""Infinite, great, denormal and no numbers."""


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_edges() -> None:
    ends = {
        fastmath.exp: ([np.inf] * 3, [1] * 4, [0] * 3),
        fastmath.sigmoid: ([1] * 3, [0.5] * 4, [0] * 3),
        fastmath.normal: ([1] * 3, [0.5] * 4, [0] * 3),
        fastmath.erf: ([1] * 3, [1e-40, 0, 0, -1e-40], [-1] * 3),
        fastmath.tanh: ([1] * 3, [1e-40, 0, 0, -1e-40], [-1] * 3),
    }
    for function, expected in ends.items():
        found = np.minimum(function(K, EDGES), 3.3e38)
        wanted = np.minimum(np.concatenate([np.asarray(part, np.float64) for part in expected]), 3.3e38)
        np.testing.assert_allclose(found, wanted, rtol=4e-7, atol=2e-7, err_msg=function.__name__)
    silu = fastmath.silu(K, EDGES)
    np.testing.assert_allclose(silu[:7], EDGES[:7] * np.array([1, 1, 1, 0.5, 0.5, 0.5, 0.5]), rtol=1e-4)
    assert (np.abs(silu[7:9]) < 1).all() and np.isnan(silu[9])


@pytest.mark.parametrize("name", FITS)
def test_coefficients_are_the_fit(name: str) -> None:
    """The coefficients are as good as the ones that the fit finds now, up to the last digits."""
    fit = FITS[name]
    assert fit.error(fit.numerator, fit.denominator) <= 1.02 * fit.error(*fit.solve())
