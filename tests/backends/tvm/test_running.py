"""Sums so far, by a loop that carries them, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_programs import TARGETS, WIDTHS, check, draw, execute, program, reference, tensor

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Input
from specc.backends.tvm.kernels import running
from specc.ir.types import TensorType
from specc.targets import Target

PLACES = [((3, 50), -1), ((2, 5, 16), 2), ((7,), 0), ((1, 1), 1), ((2, 9, 3, 7), 1), ((3, 1100), 0), ((5, 1, 530), -3)]
"""Along rows: vectors and a part of one, vectors alone, less than one. Along others: runs of columns and a part."""


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "axis"), PLACES)
def test_equals_torch(target: Target, shape: tuple[int, ...], axis: int) -> None:
    x, attrs = tensor(*shape), {"axis": axis}
    check(program([x], ("cumsum", (0,), attrs)), running.lower, target)
    check(program([x, x], ("cumsum", (0,), attrs), ("mul", (2, 1), {}), ("tanh", (3,), {})), running.lower, target)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_elements(dtype: str) -> None:
    for target in WIDTHS:
        for shape, axis in PLACES[:2] + PLACES[4:5]:
            check(program([Input(TensorType(shape, dtype))], ("cumsum", (0,), {"axis": axis})), running.lower, target)


def test_threads_share_rows() -> None:
    target = WIDTHS[0]
    for axis in (0, 1):
        group = program([tensor(96, 1500)], ("cumsum", (0,), {"axis": axis}))
        template = running.lower(group, target, Choices())
        assert template is not None
        kernel, arrays = kernel_of(group, template), draw(group)
        assert kernel.parallel == ((8,), (96,))[axis]
        (found,), (expected,) = execute(kernel, group, arrays, target), reference(group, arrays)
        assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


def test_other_groups_are_refused() -> None:
    target = TARGETS[-1]
    for group in (
        program([tensor(4, 4)], ("relu", (0,), {})),
        program([tensor(4, 4)], ("relu", (0,), {}), ("cumsum", (1,), {"axis": 1})),
        program([tensor(4, 4), tensor(2, 4, 4)], ("cumsum", (0,), {"axis": 1}), ("add", (2, 1), {})),
    ):
        assert running.lower(group, target, Choices()) is None
