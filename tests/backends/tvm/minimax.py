"""The fit that `specc.backends.tvm.fastmath` has its coefficients from.

    python tests/backends/tvm/minimax.py        prints the coefficients and the error of every fit

A function f is approximated on an interval by P(t) / Q(t), Q(0) = 1, so that the greatest weighted error is small:
least squares of P - f * Q, divided by the last Q (Sanathanan and Koerner 1963), the nodes reweighted by their error
until that is level (Lawson 1961).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from specc.backends.tvm import fastmath

Numbers = NDArray[np.float64]
Function = Callable[[Numbers], Numbers]

NODES, ROUNDS = 2000, 50


@dataclass(frozen=True)
class Fit:
    """A function of t on [low, high], what its error is weighted by, and the coefficients that stand for it."""

    function: Function
    weight: Function
    low: float
    high: float
    numerator: Sequence[float]
    denominator: Sequence[float] = (1.0,)

    @property
    def nodes(self) -> Numbers:
        """Chebyshev's, which lie closer at both ends."""
        angles = np.pi * (np.arange(NODES) + 0.5) / NODES
        return (self.low + self.high) / 2 - (self.high - self.low) / 2 * np.cos(angles)

    def error(self, numerator: Sequence[float], denominator: Sequence[float]) -> float:
        """The greatest weighted error with these coefficients, in float64."""
        t = self.nodes
        value = _polynomial(numerator, t) / _polynomial(denominator, t)
        return float(np.abs((value - self.function(t)) * self.weight(t)).max())

    def solve(self) -> tuple[list[float], list[float]]:
        """The coefficients of numerator and denominator, as many as there are now."""
        p, q = len(self.numerator), len(self.denominator)
        t, f, weight = self.nodes, self.function(self.nodes), self.weight(self.nodes)
        scale = max(abs(self.low), abs(self.high))
        powers = [(t / scale) ** i for i in range(max(p, q))]
        terms = np.stack([*powers[:p], *(-f * power for power in powers[1:q])], axis=1)
        below, level = np.ones(NODES), np.ones(NODES)
        best: tuple[float, list[float], list[float]] = (math.inf, [], [])
        for _ in range(ROUNDS):
            row = np.sqrt(level) * weight / below
            found = np.linalg.lstsq(terms * row[:, None], f * row, rcond=None)[0]
            numerator = [float(c / scale**i) for i, c in enumerate(found[:p])]
            denominator = [1.0, *(float(c / scale**i) for i, c in enumerate(found[p:], 1))]
            below = _polynomial(denominator, t)
            error = np.abs(_polynomial(numerator, t) / below - f) * weight
            best = min(best, (float(error.max()), numerator, denominator))
            level *= error / error.max() + 1e-3
            level /= level.mean()
        return best[1:]


def _polynomial(coefficients: Sequence[float], t: Numbers) -> Numbers:
    return sum((c * t**i for i, c in enumerate(coefficients)), np.zeros_like(t))


def _erf(x: Numbers) -> Numbers:
    result: Numbers = torch.erf(torch.tensor(x)).numpy()
    return result


def _odd(function: Function, limit: float, *coefficients: Sequence[float]) -> Fit:
    """f(x) / x as a function of t = x^2 on [0, limit^2], by its relative error."""

    def divided(t: Numbers) -> Numbers:
        return function(np.sqrt(t)) / np.sqrt(t)

    return Fit(divided, lambda t: 1 / divided(t), 1e-9, limit**2, *coefficients)


def _normal(t: Numbers) -> Numbers:
    """The normal distribution's function between 0 and x, divided by x, where t = x^2."""
    return _erf(np.sqrt(t / 2)) / (2 * np.sqrt(t))


def _coarse_normal(s: Numbers) -> Numbers:
    """What, times s = x^2 - limit^2, is to be added to 1 / (2 limit) for the normal distribution's function between 0
    and x, divided by x: at the limit it is to be 1/2."""
    limit = fastmath.COARSE_NORMAL_LIMIT
    return (_normal(s + limit**2) - 0.5 / limit) / s


FITS: dict[str, Fit] = {
    "EXP": Fit(np.exp, lambda t: np.exp(-t), -math.log(2) / 2, math.log(2) / 2, [c / 2 for c in fastmath.EXP]),
    "COARSE_EXP": Fit(np.exp2, lambda t: np.exp2(-t), -0.5, 0.5, [c / 2 for c in fastmath.COARSE_EXP]),
    "ERF": _odd(_erf, fastmath.ERF_LIMIT, fastmath.ERF_NUMERATOR, fastmath.ERF_DENOMINATOR),
    "NORMAL": Fit(
        _normal, np.sqrt, 1e-9, fastmath.NORMAL_LIMIT**2, fastmath.NORMAL_NUMERATOR, fastmath.NORMAL_DENOMINATOR
    ),
    "COARSE_NORMAL": Fit(
        _coarse_normal,
        lambda s: s * (s + fastmath.COARSE_NORMAL_LIMIT**2),  # that of x times the function
        -(fastmath.COARSE_NORMAL_LIMIT**2),
        0.0,
        fastmath.COARSE_NORMAL,
    ),
    "TANH": _odd(np.tanh, fastmath.TANH_LIMIT, fastmath.TANH_NUMERATOR, fastmath.TANH_DENOMINATOR),
}
"""What each group of coefficients was fitted to."""


def main() -> None:
    for name, fit in FITS.items():
        coefficients: Any = fit.solve()
        print(name, *coefficients, f"error {fit.error(*coefficients):.2e}", sep="\n    ")


if __name__ == "__main__":
    main()
