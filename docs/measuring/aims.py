"""What is aimed at, and how a measured ratio says that it is missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Aim:
    """The most that ratios to the best peer are to be: their geometric mean, the greatest, and those of networks."""

    mean: float | None = None
    greatest: float | None = None
    networks: Mapping[str, float] = field(default_factory=dict)


COMPILED_IN = 40.0
"""The most seconds that a network is to be compiled in, untuned, with an empty cache of kernels."""


def wanted(aim: float | None) -> str:
    """The aim in a table."""
    return "" if aim is None else f"{aim:.2f}"


def judged(value: float, aim: float | None, shown: str) -> str:
    """`shown`, bold where the value is above the aim as far as two digits tell."""
    return f"**{shown}**" if aim is not None and round(value, 2) > aim else shown
