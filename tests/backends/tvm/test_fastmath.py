"""The functions' stated errors hold, in float32 arithmetic, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from specc.backends.tvm import fastmath


class Numpy:
    """The primitives on float32 arrays."""

    def const(self, value: float, dtype: str) -> Any:
        return np.float32(value)

    def min(self, a: Any, b: Any) -> Any:
        return np.minimum(a, b)

    def max(self, a: Any, b: Any) -> Any:
        return np.maximum(a, b)

    def floor(self, a: Any) -> Any:
        return np.floor(a)

    def let(self, a: Any) -> Any:
        return a

    def power_of_two(self, exponent: Any) -> Any:
        return ((exponent.astype(np.int32) + 127) << 23).view(np.float32)


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


def test_exp_saturates() -> None:
    x = np.array([-np.inf, -1e30, -104.0, 89.0, 1e30, np.inf], np.float32)
    y = fastmath.exp(K, x)
    assert (y[:3] == 0).all()
    assert (y[3:] > 3.3e38).all()


def test_sigmoid() -> None:
    x = points(-100, 100)
    expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(fastmath.sigmoid(K, x) - expected).max() <= fastmath.SIGMOID_ERROR
