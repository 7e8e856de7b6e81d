"""exp, erf, tanh and what is made of them, of float32 in arithmetic that vectorizes (LLVM calls libm once a lane
otherwise).

erf, tanh and the normal distribution's function less 1/2 are odd and saturate, so each is x * P(x^2) / Q(x^2) on
[-limit, limit], the argument clamped to it.

exp(x) = 2^n * exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2; exp(r) is a polynomial, and ln 2 is split in two so
that n * ln 2 loses no bits (Cody and Waite 1980). n is rounded, and 2^n made, by adding a number whose unit is 1.

The coefficients are our own fit (`tests/backends/tvm/minimax.py`). The errors stated below are the greatest found on 2
million points against float64; `tests/backends/tvm/test_fastmath.py` holds them.

A vector of 16 takes SiLU 15 instructions, of which the division keeps its unit for 10 cycles: 5.1 ns on a Cascade Lake.
An estimate of the reciprocal and a step of Newton's method in its place took 7.0 ns, and 4.2 ns with eight vectors side
by side.
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
    def min(self, a: Number, b: Number) -> Number:
        """NaN where one of them is NaN, likewise `max`: so all functions are NaN of NaN."""
        ...

    def max(self, a: Number, b: Number) -> Number: ...
    def let(self, a: Number) -> Number:
        """`a`, computed once however often the result is used."""
        ...

    def binary(self, a: Number) -> tuple[Number, Number]:
        """The integer n nearest to `a`, between -126 and 128, and half of 2^n; 0 for half of 2^-126."""
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

NORMAL_LIMIT = 5.2
NORMAL_NUMERATOR = (
    0.3989419188990929,
    0.04957720757670723,
    0.005517562431353724,
    0.0003140720764221776,
    5.837133429651295e-06,
)
NORMAL_DENOMINATOR = (
    1.0,
    0.2909324180737248,
    0.03733007633104567,
    0.002702685102972298,
    0.00011266759003206323,
    5.016338805425414e-07,
)
NORMAL_ERROR = 2.5e-7
"""Absolute; found: 2.3e-7."""

COARSE_NORMAL_LIMIT = 4.15
COARSE_NORMAL = (
    -0.0035011804969164394,
    0.00013206148801000087,
    -2.0117150011284008e-05,
    -3.173603466026176e-06,
    -4.953078834871305e-07,
    -3.122156164817754e-08,
    -9.327112030698397e-10,
)
"""With s = x^2 - limit^2, the function less 1/2 is x * (1 / (2 * limit) + s * P(s)), which is 1/2 at the limit."""
COARSE_NORMAL_ERROR = 8e-5
"""Absolute, of x times the function (GELU). Rounding to a bfloat16 puts a number between 1/32 and 1/16 off by up to
1.2e-4, and one near 1 by up to 4e-3."""

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

EXP = tuple(
    2 * c
    for c in (
        1.0000000716543667,
        0.999999691977347,
        0.4999889485335342,
        0.16667574776924304,
        0.04191538181305225,
        0.008297651838663584,
    )
)
"""2 * exp on [-ln(2) / 2, ln(2) / 2]."""
EXP_ERROR = 2.5e-7
"""Relative, for -86.9 < x < 88.7; below, the result is 0 (true: under 2e-38), and above 88.723, it is infinite."""

COARSE_EXP = tuple(2 * c for c in (0.9999280741547911, 0.6932609974893772, 0.242611117194633, 0.055171603887609916))
"""2 * 2^t on [-1/2, 1/2]."""
COARSE_EXP_ERROR = 8e-5
"""Relative, for -86.9 < x <= 0; below, the result is 0. Rounding to a bfloat16 puts a number off by up to 2e-3."""

SIGMOID_ERROR = 1.2e-7
"""Absolute; found: 9.7e-8."""
SIGMOID_RELATIVE_ERROR = 5e-6
"""Relative, for x > -86.9, also SiLU's; found: 4.1e-6, and 2e-7 for x > -1. With fused multiply-adds it is less."""


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


def normal(k: Primitives[Number], x: Number) -> Number:
    """The distribution function of the normal distribution, (1 + erf(x / sqrt(2))) / 2."""
    part = _odd_rational(k, x, NORMAL_LIMIT, NORMAL_NUMERATOR, NORMAL_DENOMINATOR)
    return part + k.const(0.5, "float32")


def coarse_normal(k: Primitives[Number], x: Number) -> Number:
    """`normal` where x times it is rounded to a bfloat16 next: 11 instructions without a division in place of 16."""
    limit = COARSE_NORMAL_LIMIT
    x = k.let(k.min(k.max(x, k.const(-limit, "float32")), k.const(limit, "float32")))
    s = k.let(x * x - k.const(limit**2, "float32"))
    return x * _polynomial(k, (0.5 / limit, *COARSE_NORMAL), s) + k.const(0.5, "float32")


def tanh(k: Primitives[Number], x: Number) -> Number:
    """The hyperbolic tangent."""
    return _odd_rational(k, x, TANH_LIMIT, TANH_NUMERATOR, TANH_DENOMINATOR)


def _exponential(
    k: Primitives[Number], x: Number, parts: Sequence[float], sign: int = 1, negative: bool = False
) -> tuple[Number, Number]:
    """Half of 2^n and 2 * exp(r), whose product is exp(sign * x), for ln 2 as a sum of `parts`.

    The halving lets n be 128: 2^128 is no float32.
    """

    def const(value: float) -> Number:
        return k.const(value, "float32")

    low, high = sorted((sign * -87.3, sign * 88.73))  # exp(88.7229) is beyond the float32
    x = k.max(x, const(low))
    x = k.let(x if negative else k.min(x, const(high)))
    n, power = k.binary(x * const(sign / math.log(2)))
    for part in parts:
        x = x - n * const(sign * part)
    return power, _polynomial(k, [sign**i * c for i, c in enumerate(EXP)], k.let(x))


def exp(k: Primitives[Number], x: Number, negative: bool = False) -> Number:
    """The exponential; `negative` says that x is 0 at most, which saves an instruction."""
    high = math.ldexp(round(math.ldexp(math.log(2), 9)), -9)  # ln 2 in nine bits: n * high is exact
    power, series = _exponential(k, x, (high, math.log(2) - high), negative=negative)
    return series * power


def coarse_exp(k: Primitives[Number], x: Number) -> Number:
    """The exponential of what is 0 at most, where it is rounded to a bfloat16 next: three instructions less."""
    t = k.let(k.max(x, k.const(-87.3, "float32")) * k.const(1 / math.log(2), "float32"))
    n, power = k.binary(t)
    return _polynomial(k, COARSE_EXP, k.let(t - n)) * power


def _logistic(k: Primitives[Number], x: Number, numerator: Number) -> Number:
    """`numerator` / (1 + exp(-x)). A relative error of exp counts for a quarter of itself at most: ln 2 is one float32
    here."""
    power, series = _exponential(k, x, (math.log(2),), -1)
    return numerator / (series * power + k.const(1.0, "float32"))


def sigmoid(k: Primitives[Number], x: Number) -> Number:
    """1 / (1 + exp(-x))."""
    return _logistic(k, x, k.const(1.0, "float32"))


def silu(k: Primitives[Number], x: Number) -> Number:
    """X / (1 + exp(-x))."""
    return _logistic(k, x, x)
