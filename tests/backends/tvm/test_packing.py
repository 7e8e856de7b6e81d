"""A packed weight holds each element where the kernels look for it, and zeros beyond."""

from __future__ import annotations

import numpy as np
import pytest

from specc.backends.tvm.packing import Packing, of_type
from specc.ir.types import TensorType


def test_convolution() -> None:
    a = np.arange(1, 5 * 3 * 2 * 2 + 1).reshape(5, 3, 2, 2)
    packed = Packing("convolution", 4, 2).apply(a)
    assert packed.shape == (2, 2, 2, 2, 2, 4)
    for (o, i, r, s), value in np.ndenumerate(a):
        assert packed[o // 4, i // 2, r, s, i % 2, o % 4] == value
    assert packed.sum() == a.sum()


def test_interleaved() -> None:
    a = np.arange(1, 5 * 3 * 2 * 2 + 1).reshape(5, 3, 2, 2)
    packed = Packing("interleaved", 2, 4).apply(a)  # two outputs in a vector of four, each for two neighbouring inputs
    assert packed.shape == (3, 1, 2, 2, 2, 4)
    for (o, i, r, s), value in np.ndenumerate(a):
        assert packed[o // 2, 0, r, s, i // 2, o % 2 * 2 + i % 2] == value
    assert packed.sum() == a.sum()


def test_depthwise() -> None:
    a = np.arange(1, 5 * 6 + 1).reshape(5, 1, 2, 3)
    packed = Packing("depthwise", 4).apply(a)
    assert packed.shape == (2, 2, 3, 4)
    for (c, _, r, s), value in np.ndenumerate(a):
        assert packed[c // 4, r, s, c % 4] == value
    assert packed.sum() == a.sum()


def test_depthwise_with_several_filters_a_channel() -> None:
    a = np.arange(1, 5 * 2 * 6 + 1).reshape(10, 1, 2, 3)
    packed = Packing("depthwise", 4, 2).apply(a)
    assert packed.shape == (4, 2, 3, 4)
    for (o, _, r, s), value in np.ndenumerate(a):
        c, m = divmod(o, 2)
        assert packed[c // 4 * 2 + m, r, s, c % 4] == value
    assert packed.sum() == a.sum()
    assert Packing("depthwise", 4, 2).apply(np.arange(10)).shape == (4, 1, 1, 4)


def test_transposed() -> None:
    a = np.arange(1, 2 * 5 * 3 + 1).reshape(2, 5, 3)
    packed = Packing("transposed", 4).apply(a)
    assert packed.shape == (2, 3, 8)
    assert (packed[:, :, :5] == a.swapaxes(1, 2)).all() and packed.sum() == a.sum()


def test_matrix() -> None:
    a = np.arange(1, 16).reshape(5, 3)
    packed = Packing("matrix", 4).apply(a)
    assert packed.shape == (2, 3, 4)
    for (o, i), value in np.ndenumerate(a):
        assert packed[o // 4, i, o % 4] == value
    assert packed.sum() == a.sum()


def test_matrix_of_groups() -> None:
    """Each group begins with a block of its own."""
    a = np.arange(1, 31).reshape(10, 3, 1, 1)
    packed = Packing("matrix", 4, groups=2).apply(a)
    assert packed.shape == (4, 3, 4)
    for (o, i, *_), value in np.ndenumerate(a):
        assert packed[2 * (o // 5) + o % 5 // 4, i, o % 5 % 4] == value
    assert packed.sum() == a.sum()


def test_blocked_is_what_the_type_says() -> None:
    type = TensorType((2, 5, 3, 2), "float32", "NCHW4c")
    a = np.arange(1, 61).reshape(type.concrete)
    packed = of_type(type).apply(a)
    assert packed.shape == type.physical
    for (n, c, y, x), value in np.ndenumerate(a):
        assert packed[n, c // 4, y, x, c % 4] == value
    assert packed.sum() == a.sum()


@pytest.mark.parametrize("shape", [(5,), (1, 5, 1, 1), (5, 1, 1)])
def test_padded(shape: tuple[int, ...]) -> None:
    packed = Packing("padded", 4).apply(np.arange(1, 6).reshape(shape))
    assert packed.tolist() == [1, 2, 3, 4, 5, 0, 0, 0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3)])
def test_plain_keeps_shape_and_order(shape: tuple[int, ...]) -> None:
    a = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), order="F")
    packed = Packing("plain").apply(a)
    assert packed.shape == shape and packed.flags.c_contiguous
    assert (packed == a).all()
