"""Minimal filtering: m results of a filter with r taps by m + r - 1 multiplications (Winograd, "Arithmetic Complexity
of Computations", 1980; Toom and Cook's multiplication of polynomials, transposed).

    y = A^T ((G g) * (B^T d))       y [m] is the correlation of d [m + r - 1] and g [r], * the elementwise product

With a stride of s, every s-th result of a correlation, y is the sum of s correlations: of every s-th input with every
s-th tap, from each of the first s on. Each of them has places of its own; there are n = (m - 1) s + r of them together,
as many as inputs. With s = 2 and r = 3 one has two taps and one has a single tap, which needs no transform: 5 products
in place of 6 for m = 2, 9 in place of 12 for m = 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from math import prod
from typing import Any

Matrix = tuple[tuple[Fraction, ...], ...]

POINTS: dict[int, tuple[str, ...]] = {
    1: (),
    2: ("0",),
    3: ("0", "1"),
    4: ("0", "1", "-1"),
    5: ("0", "1", "-1", "2"),
    6: ("0", "3/4", "-3/4", "3/2", "-3/2"),
    8: ("0", "1", "-1", "2", "-2", "1/2", "-1/2"),
}
"""For a tile of so many inputs, the points at which polynomials are evaluated, beside infinity."""


@cache
def transforms(m: int, r: int, stride: int = 1) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T [m, n], G [n, r], B^T [n, n]) with n = (m - 1) * stride + r: A^T ((G g) * (B^T d)) is the correlation of d
    and g, every `stride`-th of its results. The stride is at most r.

    Toom and Cook's algorithm, transposed; every entry is exact. The scale of a point is a factor of G B^T's rows or of
    A^T's columns: here A^T has it, for results are transformed once, and weights for every piece.
    """
    if stride > 1:
        return _strided(m, r, stride)
    if r == 1:  # products alone
        unit = _frozen([[Fraction(i == j) for j in range(m)] for i in range(m)])
        return unit, ((Fraction(1),),) * m, unit
    n = m + r - 1
    points = [Fraction(p) for p in POINTS[n]]
    others = [points[:j] + points[j + 1 :] for j in range(n - 1)]
    scales = [prod((p - q for q in rest), start=Fraction(1)) for p, rest in zip(points, others, strict=True)]
    a_t = [[p**i / scale for p, scale in zip(points, scales, strict=True)] + [Fraction(i == m - 1)] for i in range(m)]
    g = [[p**k for k in range(r)] for p in points] + [[Fraction(k == r - 1) for k in range(r)]]
    b_t = [[*_polynomial(rest), Fraction(0)] for rest in others] + [_polynomial(points)]
    return _frozen(a_t), _frozen(g), _frozen(b_t)


def _strided(m: int, r: int, stride: int) -> tuple[Matrix, Matrix, Matrix]:
    """`transforms` as the sum of those of each phase, whose taps and inputs lie `stride` apart."""
    n = (m - 1) * stride + r
    a_t: list[list[Fraction]] = [[] for _ in range(m)]
    g: list[list[Fraction]] = []
    b_t: list[list[Fraction]] = []
    for phase in range(stride):
        results, taps, inputs = transforms(m, -(-(r - phase) // stride))
        for row, more in zip(a_t, results, strict=True):
            row += more
        g += [_apart(row, phase, stride, r) for row in taps]
        b_t += [_apart(row, phase, stride, n) for row in inputs]
    return _frozen(a_t), _frozen(g), _frozen(b_t)


def _apart(row: Sequence[Fraction], first: int, stride: int, length: int) -> list[Fraction]:
    """A row of so many entries: those of `row` from number `first` on, `stride` apart, and zeros."""
    found = [Fraction(0)] * length
    found[first::stride] = row
    return found


def sizes(r: int, stride: int = 1) -> list[int]:
    """For how many results at once there are points; 1 stands for sums as they are."""
    longest = -(-r // stride)
    if longest == 1:
        return [1]
    shortest = r // stride
    return [n - longest + 1 for n in POINTS if n > longest and (shortest == 1 or n - longest + shortest in POINTS)]


@cache
def growth(m: int, r: int, stride: int = 1) -> float:
    """How much greater the terms are that are added up, in the root mean square, than those of the correlation itself.

    For independent inputs and weights of variance 1. Rounding errors grow as much: with 64 channels and 3 x 3 weights
    the greatest error against float64 is 3e-6 of the results' deviation for direct sums (growth 1), 1e-6 for
    F(2 x 2) (1.7), 5e-6 for F(4 x 4) (5.1) and 3e-5 for F(6 x 6) (20.6); with the usual points 0, 1, -1, 2, -2 it is
    1.4e-5 for F(4 x 4). After Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution",
    arXiv:1803.10986.
    """
    if 1 in (m, r):
        return 1.0
    a_t, g, b_t = transforms(m, r, stride)
    places = [sum(x * x for x in row) * sum(x * x for x in other) for row, other in zip(g, b_t, strict=True)]
    total = sum(x * x * place for row in a_t for x, place in zip(row, places, strict=True))
    return math.sqrt(total / (m * r))


def tiles(kernel: Sequence[int], rounding: float, stride: Sequence[int] = (1, 1)) -> list[tuple[int, int]]:
    """The tiles of results (rows, columns) of a window of two axes for which there are points, and for which rounding
    errors grow by a factor of `rounding` at most."""
    rows, columns = map(sizes, kernel, stride)
    pairs = [(m, p) for m in rows for p in columns if (m, p) != (1, 1)]
    return [pair for pair in pairs if prod(map(growth, pair, kernel, stride)) <= rounding]


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the product of (x - root), from the constant one up."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [low - root * high for low, high in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _frozen(rows: list[list[Fraction]]) -> Matrix:
    return tuple(map(tuple, rows))


def product(matrix: Matrix, values: Sequence[Any], keep: Callable[[Any], Any]) -> list[Any]:
    """`matrix` times a vector of expressions; `keep` computes one that is used more than once.

    Points come in pairs a, -a. Two rows of a pair differ in the signs of odd entries (B^T, G), and so do two columns
    (A^T): the even and the odd part of a pair are computed once.
    """
    columns = list(zip(*matrix, strict=True))
    pair = _pair(columns)
    if pair is not None:
        p, q = pair
        plus = keep(values[p] + values[q])
        minus = keep(values[p] - values[q])
        rows = []
        for row in matrix:
            even = row[p] == row[q]
            entry, none = row[p], Fraction(0)
            rest = [v for i, v in enumerate(row) if i not in pair]
            rows.append((*rest, entry if even else none, none if even else entry))
        return product(tuple(rows), [*(v for i, v in enumerate(values) if i not in pair), plus, minus], keep)
    results: dict[int, Any] = {}
    rows_left = list(range(len(matrix)))
    while rows_left:
        p = rows_left.pop(0)
        mirrored = [q for q in rows_left if _mirrors(matrix[p], matrix[q])]
        if not mirrored:
            results[p] = _sum(matrix[p], values)
            continue
        q = mirrored[0]
        rows_left.remove(q)
        same = keep(_sum(_where(matrix[p], matrix[q], equal=True), values))
        other = _where(matrix[p], matrix[q], equal=False)
        factor = next(filter(None, other))
        rest = _sum([entry / factor for entry in other], values)
        rest = rest if sum(map(bool, other)) == 1 else keep(rest)
        results[p] = same + _scaled(rest, factor)
        results[q] = same - _scaled(rest, factor)
    return [results[i] for i in range(len(matrix))]


def _where(a: Sequence[Fraction], b: Sequence[Fraction], equal: bool) -> list[Fraction]:
    """`a`, with zeros where its entries are not equal to those of `b`, or where they are."""
    return [x if (x == y) == equal else Fraction(0) for x, y in zip(a, b, strict=True)]


def _scaled(value: Any, factor: Fraction) -> Any:
    return value if factor == 1 else value * float(factor)


def _pair(columns: Sequence[Sequence[Fraction]]) -> tuple[int, int] | None:
    """Two columns that differ in signs alone, if the matrix is wide: then it is A^T."""
    if len(columns) <= len(columns[0]):
        return None
    pairs = ((p, q) for p in range(len(columns)) for q in range(p + 1, len(columns)))
    return next(((p, q) for p, q in pairs if _mirrors(columns[p], columns[q])), None)


def _mirrors(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether entries are equal but for signs, some with the same and some with the other one."""
    return (
        all(abs(x) == abs(y) for x, y in zip(a, b, strict=True))
        and any(x == y != 0 for x, y in zip(a, b, strict=True))
        and any(x == -y != 0 for x, y in zip(a, b, strict=True))
    )


def _sum(coefficients: Sequence[Fraction], values: Sequence[Any]) -> Any:
    """The sum of coefficient * value; those that are 1 come first, for a multiply-add to add to them."""
    terms = [(c, v) for c, v in zip(coefficients, values, strict=True) if c]
    terms.sort(key=lambda term: term[0] != 1)
    total: Any = None
    for coefficient, value in terms:
        if total is None:
            total = _scaled(value, coefficient)
        elif coefficient == -1:
            total = total - value
        else:
            total = total + _scaled(value, coefficient)
    return total


def uses(matrix: Matrix) -> int:
    """How many expressions `product` keeps."""
    count = 0

    def keep(value: Any) -> Any:
        nonlocal count
        count += 1
        return value

    product(matrix, [0.0] * len(matrix[0]), keep)
    return count
