"""Axes and numbers for people: round steps for an axis, and quantities with their units."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A line of the grid: where it is, in percent of the axis, and what stands beside it."""

    at: float
    label: str


@dataclass(frozen=True)
class Linear:
    """0 to `top` in steps of 1, 2 or 5 times a power of ten."""

    top: float
    step: float

    @classmethod
    def over(cls, most: float, steps: int = 5) -> Linear:
        """The axis that reaches `most` in about so many steps; 0 to 1 where that is 0."""
        most = most if most > 0 else 1.0
        rough = most / steps
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
        return cls(step * math.ceil(most / step * 0.999999), step)

    def at(self, value: float) -> float:
        """The place of a value, in percent."""
        return round(100 * value / self.top, 3)

    def ticks(self, unit: str, scale: float = 1.0) -> list[Tick]:
        """The lines of the grid; labels are values times `scale`."""
        digits = max(0, -math.floor(math.log10(self.step * scale) + 1e-9))
        values = [self.step * i for i in range(round(self.top / self.step) + 1)]
        return [Tick(self.at(v), f"{v * scale:.{digits}f}{unit}" if v else "0") for v in values]


@dataclass(frozen=True)
class Logarithmic:
    """Whole decades."""

    low: int
    high: int

    @classmethod
    def over(cls, least: float, most: float) -> Logarithmic:
        """The decades that hold both."""
        low = math.floor(math.log10(least) + 1e-9)
        return cls(low, max(low + 1, math.ceil(math.log10(most) - 1e-9)))

    def at(self, value: float) -> float:
        """The place of a value above 0, in percent."""
        return round(100 * (math.log10(value) - self.low) / (self.high - self.low), 3)

    def ticks(self) -> list[Tick]:
        """A line for each decade."""
        return [Tick(self.at(10.0**power), f"{10.0**power:,g}") for power in range(self.low, self.high + 1)]


def duration(microseconds: float) -> str:
    """Up to three digits and a unit: 40 ns, 853 µs, 3.89 ms, 1.20 s."""
    if 0 < microseconds < 0.0995:
        return f"{1e3 * microseconds:.0f} ns"
    for scale, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= 0.9995 * scale:
            return f"{_three(microseconds / scale)} {unit}"
    return f"{microseconds:.0f} µs" if microseconds >= 9.95 or not microseconds else f"{microseconds:.1f} µs"


def amount(count: float, unit: str) -> str:
    """Three digits, a prefix and a unit: 45.0 MFLOP, 1.61 MB, 12 B."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * scale:
            return f"{_three(count / scale)} {prefix}{unit}"
    return f"{count:.0f} {unit}"


def _three(value: float) -> str:
    """Three digits of a number of at least 1; all of them before the point where there are more."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1)) + 2e-4))}f}"
