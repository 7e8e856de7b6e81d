"""Sixteen vectors of sixteen numbers of 32 bits as a matrix: its transpose, and a sum or maximum of each of its rows.

Four steps exchange one bit of the number of a vector with the same bit of the number of a lane: for 8, 4, 2 and 1, the
lanes of a vector with that bit change places with those without it of the vector that many further on.

    a = a0 a1 a2 a3 ..    b = b0 b1 b2 b3 ..    by one lane:    a0 b0 a2 b2 ..    a1 b1 a3 b3 ..

A sum of each row takes the sum of both vectors behind a step, so that half as many are left: 30 shuffles in place of
64, where every row by itself would take four, and its result would lie in one lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

SIZE = 16
"""Vectors, and lanes of each."""

_STEPS = (8, 4, 2, 1)


def transposed(rows: Sequence[Any]) -> list[Any]:
    """The columns of a matrix, as vectors of 32 bits a number, given its 16 rows."""
    vectors = list(rows)
    for step in _STEPS:
        for i in range(SIZE):
            if not i & step:
                vectors[i], vectors[i + step] = _exchanged(vectors[i], vectors[i + step], step)
    return vectors


def reduced(rows: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """A vector of what `combine`, which may be applied in any order, makes of each of 16 rows."""
    vectors = list(rows)
    for step in _STEPS:
        pairs = zip(vectors[:step], vectors[step:], strict=True)
        vectors = [T.Bind(combine(*_exchanged(a, b, step))) for a, b in pairs]
    return vectors[0]


def _exchanged(a: Any, b: Any, step: int) -> tuple[Any, Any]:
    """The lanes without the bit `step` of both vectors, then those with it."""
    low = [SIZE + lane - step if lane & step else lane for lane in range(SIZE)]
    high = [SIZE + lane if lane & step else lane + step for lane in range(SIZE)]
    return T.Bind(tirx.Shuffle([a, b], low)), T.Bind(tirx.Shuffle([a, b], high))
