"""Minimal filtering: the matrices are exact, their products too, and errors grow as is said."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from specc.backends.tvm.filtering import growth, product, transforms, uses

SIZES = [(2, 3), (3, 3), (4, 3), (6, 3), (2, 5), (4, 5), (2, 7), (2, 2), (3, 2), (5, 2), (1, 1)]


def times(matrix: tuple[tuple[Fraction, ...], ...], vector: list[Fraction]) -> list[Fraction]:
    return [sum((a * x for a, x in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_correlation_is_exact(m: int, r: int) -> None:
    a_t, g, b_t = transforms(m, r)
    rng = np.random.default_rng(m * 10 + r)
    d = [Fraction(int(v), 7) for v in rng.integers(-9, 9, m + r - 1)]
    taps = [Fraction(int(v), 3) for v in rng.integers(-9, 9, r)]
    places = [u * v for u, v in zip(times(g, taps), times(b_t, d), strict=True)]
    assert times(a_t, places) == [sum(d[i + k] * taps[k] for k in range(r)) for i in range(m)]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_products_are_the_matrices(m: int, r: int) -> None:
    rng = np.random.default_rng(0)
    for matrix in transforms(m, r):
        values = list(rng.standard_normal(len(matrix[0])))
        kept: list[float] = []

        def keep(value: float, kept: list[float] = kept) -> float:
            kept.append(value)
            return value

        assert np.allclose(product(matrix, values, keep), np.array(matrix, float) @ values, rtol=1e-12, atol=1e-12)
        assert len(kept) == uses(matrix)


def test_pairs_of_points_share_their_parts() -> None:
    additions = 0

    class Counted(float):
        def __add__(self, other: float) -> Counted:
            nonlocal additions
            additions += 1
            return Counted(float(self) + other)

        def __sub__(self, other: float) -> Counted:
            return self + -other

        def __mul__(self, other: float) -> Counted:
            return Counted(float(self) * other)

    a_t, g, b_t = transforms(4, 3)
    counts, entries = [], []
    for matrix in (a_t, g, b_t):
        additions = 0
        product(matrix, [Counted(i) for i in range(len(matrix[0]))], lambda value: value)
        counts.append(additions)
        entries.append(sum(bool(entry) for row in matrix for entry in row) - len(matrix))
    assert (counts, entries) == ([10, 6, 12], [14, 8, 16])


@pytest.mark.parametrize("m", [2, 3, 4, 6])
def test_rounding_errors_grow_as_said(m: int) -> None:
    # [tiles, channels, n, n] and [channels, 3, 3]; sums of float32 in one order, for both ways
    rng = np.random.default_rng(0)
    n, channels = m + 2, 64
    d = rng.standard_normal((200, channels, n, n)).astype(np.float32)
    g = (rng.standard_normal((channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)

    def filtered(dtype: type) -> np.ndarray:
        a_t, g_, b_t = (np.array(matrix, float).astype(dtype) for matrix in transforms(m, 3))
        u, v = (g_ @ g.astype(float) @ g_.T).astype(dtype), b_t @ d.astype(dtype) @ b_t.T
        total = np.zeros((200, n, n), dtype)
        for channel in range(channels):
            total += u[channel] * v[:, channel]
        return a_t @ total @ a_t.T

    exact = filtered(np.float64)
    error = np.abs(filtered(np.float32) - exact).max() / exact.std() / 2**-24
    assert error / growth(m, 3) ** 2 == pytest.approx(15, rel=0.7)
    assert growth(1, 3) == growth(3, 1) == 1
