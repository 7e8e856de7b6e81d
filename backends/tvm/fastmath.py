"""exp, erf, tanh and sigmoid of float32 in arithmetic that vectorizes (LLVM calls libm once a lane otherwise).

erf and tanh are odd and saturate, so each is x * P(x^2) / Q(x^2) on [-limit, limit], the argument clamped to it. The
coefficients are our own fit: least squares of the relative error, linearized in Q and reweighted until the error is
level (Sanathanan and Koerner 1963; Lawson 1961), on 4000 Chebyshev nodes.

exp(x) = 2^n * exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2; exp(r) is its Taylor polynomial of degree 6, and
ln 2 is split in two so that n * ln 2 loses no bits (Cody and Waite 1980).

The errors stated below are the greatest found on 2 million points against float64;
`tests/backends/tvm/test_fastmath.py` holds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

Number = TypeVar("Number", bound="Arithmetic")


class Arithmetic(Protocol):
    """What the functions below ask of a number."""

    def __add__(self: Number, other: Number) -> Number: ...
    def __sub__(self: Number, other: Number) -> Number: ...
    def __mul__(self: Number, other: Number) -> Number: ...
    def __truediv__(self: Number, other: Number) -> Number: ...


class Primitives(Protocol[Number]):
    """What the functions below ask of a machine: float32 constants, rounding, and one look at the bits."""

    def const(self, value: float, dtype: str) -> Number: ...
    def min(self, a: Number, b: Number) -> Number: ...
    def max(self, a: Number, b: Number) -> Number: ...
    def floor(self, a: Number) -> Number: ...
    def let(self, a: Number) -> Number:
        """`a`, computed once however often the result is used."""
        ...

    def power_of_two(self, exponent: Number) -> Number:
        """2 to an integral `exponent` of -126 to 127; 0 at -127."""
        ...


ERF_LIMIT = 3.925
ERF_NUMERATOR = (
    1.1283791457677803,
    0.19059379881320995,
    0.05276929434766153,
    0.003772549643211661,
    0.00028484317258733435,
    2.0460224678330775e-06,
)
ERF_DENOMINATOR = (
    1.0,
    0.5022420868236142,
    0.11418273100462813,
    0.01498319676958476,
    0.0011638570246985678,
    3.804770473368895e-05,
)
ERF_ERROR = 4e-7
"""Absolute and relative; found: 3.8e-7."""

TANH_LIMIT = 9.02
TANH_NUMERATOR = (
    0.9999999790354274,
    0.13379711664332417,
    0.00349402707942922,
    2.0583358998879743e-05,
    1.331890734345095e-08,
)
TANH_DENOMINATOR = (
    1.0,
    0.4671302691064431,
    0.02587104478696004,
    0.0003283080618704872,
    7.761950898531235e-07,
)
TANH_ERROR = 4e-7
"""Absolute and relative; found: 3.8e-7."""

EXP_ERROR = 2.5e-7
"""Relative, for -86.9 < x < 88.7; below, the result is 0 (true: under 2e-38), and above, it stays at its greatest."""

SIGMOID_ERROR = 3e-7
"""Absolute."""


def _polynomial(k: Primitives[Number], coefficients: Sequence[float], t: Number) -> Number:
    """Horner's rule; coefficients from the constant term up."""
    result = k.const(coefficients[-1], "float32")
    for coefficient in reversed(coefficients[:-1]):
        result = result * t + k.const(coefficient, "float32")
    return result


def _odd_rational(
    k: Primitives[Number], x: Number, limit: float, numerator: Sequence[float], denominator: Sequence[float]
) -> Number:
    x = k.let(k.min(k.max(x, k.const(-limit, "float32")), k.const(limit, "float32")))
    t = k.let(x * x)
    return x * _polynomial(k, numerator, t) / _polynomial(k, denominator, t)


def erf(k: Primitives[Number], x: Number) -> Number:
    """The error function."""
    return _odd_rational(k, x, ERF_LIMIT, ERF_NUMERATOR, ERF_DENOMINATOR)


def tanh(k: Primitives[Number], x: Number) -> Number:
    """The hyperbolic tangent."""
    return _odd_rational(k, x, TANH_LIMIT, TANH_NUMERATOR, TANH_DENOMINATOR)


def exp(k: Primitives[Number], x: Number) -> Number:
    """The exponential. 2^n is applied as 2 * 2^(n - 1), because 2^128 is no float32."""

    def const(value: float) -> Number:
        return k.const(value, "float32")

    high = math.ldexp(round(math.ldexp(math.log(2), 9)), -9)  # ln 2 in nine bits: n * high is exact
    x = k.let(k.min(k.max(x, const(-87.3)), const(88.7228)))
    n = k.let(k.floor(x * const(1 / math.log(2)) + const(0.5)))
    r = k.let((x - n * const(high)) - n * const(math.log(2) - high))
    series = _polynomial(k, [1 / math.factorial(i) for i in range(7)], r)
    return series * k.power_of_two(n - const(1.0)) * const(2.0)


def sigmoid(k: Primitives[Number], x: Number) -> Number:
    """1 / (1 + exp(-x))."""
    one = k.const(1.0, "float32")
    return one / (one + exp(k, k.const(0.0, "float32") - x))
