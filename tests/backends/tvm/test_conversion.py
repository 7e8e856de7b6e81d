"""Conversions of layout against the same elements in order."""

from __future__ import annotations

import pytest
from kernel_programs import NATIVE, check, program, tensor

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import conversion

pytestmark = pytest.mark.skipif(NATIVE.lanes != 16, reason="the kernel is for vectors of 16 lanes")


@pytest.mark.parametrize("plain", [False, True], ids=["to blocks", "to plain"])
@pytest.mark.parametrize(
    "shape",
    [(1, 16, 4, 4), (2, 40, 14, 14), (1, 10, 56, 56), (1, 33, 7, 7), (3, 1, 1, 17), (1, 80, 31, 1), (2, 5, 9, 13)],
)
def test_moves_every_element(shape: tuple[int, ...], plain: bool) -> None:
    layouts = (NATIVE.blocked_layout, "") if plain else ("", NATIVE.blocked_layout)
    group = program([tensor(*shape, layout=layouts[0])], ("convert_layout", (0,), {"layout": layouts[1]}))
    check(group, conversion.lower, tolerance=0)


@pytest.mark.parametrize("strips", [1, 3, 13])
def test_strips(strips: int) -> None:
    group = program([tensor(2, 20, 14, 14)], ("convert_layout", (0,), {"layout": NATIVE.blocked_layout}))
    check(group, conversion.lower, tolerance=0, configuration={"strips": strips})


@pytest.mark.parametrize(("shape", "layout"), [((1, 16, 3, 5), "NCHW16c"), ((1, 16, 8, 8), "NCHW8c")])
def test_few_pixels_and_other_blocks_are_refused(shape: tuple[int, ...], layout: str) -> None:
    group = program([tensor(*shape)], ("convert_layout", (0,), {"layout": layout}))
    assert conversion.lower(group, NATIVE, Choices()) is None
