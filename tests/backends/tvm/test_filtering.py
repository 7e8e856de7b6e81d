"""Minimal filtering: the matrices are exact, their products too, and errors grow as is said."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from specc.backends.tvm.filtering import growth, product, sizes, transforms, uses

SIZES = [(2, 3), (3, 3), (4, 3), (6, 3), (2, 5), (4, 5), (2, 7), (2, 2), (3, 2), (5, 2), (1, 1), (3, 1)]
STRIDED = [(2, 3, 2), (3, 3, 2), (4, 3, 2), (2, 5, 2), (2, 7, 2), (2, 2, 2), (2, 4, 3), (3, 3, 3), (1, 3, 2)]


def times(matrix: tuple[tuple[Fraction, ...], ...], vector: list[Fraction]) -> list[Fraction]:
    return [sum((a * x for a, x in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@pytest.mark.parametrize(("m", "r", "stride"), [*((m, r, 1) for m, r in SIZES), *STRIDED])
def test_correlation_is_exact(m: int, r: int, stride: int) -> None:
    a_t, g, b_t = transforms(m, r, stride)
    rng = np.random.default_rng(m * 10 + r)
    d = [Fraction(int(v), 7) for v in rng.integers(-9, 9, (m - 1) * stride + r)]
    assert len(a_t[0]) == len(g) == len(b_t) == len(d)
    taps = [Fraction(int(v), 3) for v in rng.integers(-9, 9, r)]
    places = [u * v for u, v in zip(times(g, taps), times(b_t, d), strict=True)]
    assert times(a_t, places) == [sum(d[i * stride + k] * taps[k] for k in range(r)) for i in range(m)]


@pytest.mark.parametrize(("r", "stride"), [(1, 1), (2, 1), (3, 1), (7, 1), (3, 2), (5, 2), (7, 2), (3, 3), (5, 3)])
def test_sizes_are_those_that_have_points(r: int, stride: int) -> None:
    def known(m: int) -> bool:
        try:
            transforms(m, r, stride)
        except KeyError:
            return False
        return True

    found = sizes(r, stride)
    assert found == ([1] if r == stride else [m for m in range(2 if r > stride else 1, 9) if known(m)])


@pytest.mark.parametrize(("m", "r", "stride"), [*((m, r, 1) for m, r in SIZES), *STRIDED])
def test_products_are_the_matrices(m: int, r: int, stride: int) -> None:
    rng = np.random.default_rng(0)
    for matrix in transforms(m, r, stride):
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


@pytest.mark.parametrize(("m", "stride"), [(2, 1), (3, 1), (4, 1), (6, 1), (2, 2), (4, 2)])
def test_rounding_errors_grow_as_said(m: int, stride: int) -> None:
    # [tiles, channels, n, n] and [channels, 3, 3]; sums of float32 in one order, for both ways
    rng = np.random.default_rng(0)
    n, channels = (m - 1) * stride + 3, 64
    d = rng.standard_normal((200, channels, n, n)).astype(np.float32)
    g = (rng.standard_normal((channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)

    def filtered(dtype: type) -> np.ndarray:
        a_t, g_, b_t = (np.array(matrix, float).astype(dtype) for matrix in transforms(m, 3, stride))
        u, v = (g_ @ g.astype(float) @ g_.T).astype(dtype), b_t @ d.astype(dtype) @ b_t.T
        total = np.zeros((200, n, n), dtype)
        for channel in range(channels):
            total += u[channel] * v[:, channel]
        return a_t @ total @ a_t.T

    exact = filtered(np.float64)
    error = np.abs(filtered(np.float32) - exact).max() / exact.std() / 2**-24
    assert error / growth(m, 3, stride) ** 2 == pytest.approx(15, rel=0.7)
    assert growth(1, 3) == growth(3, 1) == 1
