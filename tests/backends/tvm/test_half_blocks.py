"""Convolutions whose last output block is half empty, two input channels in each vector, against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_programs import NATIVE, TARGETS, check
from test_convolution import conv

from specc import targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import half_blocks, select
from specc.targets import Target

V4 = targets.TARGETS["x86-64-v4"]
X86 = [target for target in TARGETS if target.architecture == "x86_64"]
CASES: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 32, 14, 14), 1, (1, 1), {}),
    ((2, 17, 5, 7), 3, (1, 1), {}),  # an odd number of input channels, a prime one of pixels
    ((1, 72, 9, 9), 7, (1, 1), {}),
    ((1, 30, 6, 9), 5, (3, 3), {"padding": 1}),  # several groups of blocks
    ((2, 20, 9, 13), 3, (3, 3), {"padding": 2, "dilation": 2, "stride": 2}),
    ((1, 24, 13, 9), 3, (1, 1), {"stride": 2}),
    ((1, 16, 6, 30), 1, (5, 2), {"padding": [0, 1, 3, 2], "stride": [2, 1]}),
    ((1, 40, 4, 8), 9, (1, 1), {}),
]
"""The shape, how many halves of a block the output channels fill, the window, and the attributes."""


@pytest.mark.parametrize("target", X86, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "halves", "k", "attrs"), CASES)
@pytest.mark.parametrize("less", [0, 1])
def test_equals_torch(
    target: Target, shape: tuple[int, ...], halves: int, k: tuple[int, int], attrs: dict[str, Any], less: int
) -> None:
    out = halves * target.lanes // 2 - less
    group = conv(shape, out, k, target.blocked_layout, bias=not less, **attrs)
    check(group, half_blocks.lower, target, configuration={"halves": True})


@pytest.mark.parametrize(
    "configuration", [{"unroll": 1, "inputs": False}, {"pixels": 1}, {"groups": 2, "results": True}]
)
def test_choices_change_no_result(configuration: dict[str, Any]) -> None:
    if not X86:
        pytest.skip("no x86")
    out = 3 * NATIVE.lanes // 2
    group = conv((1, 40, 6, 7), out, (1, 1), NATIVE.blocked_layout)
    check(group, half_blocks.lower, NATIVE, configuration={"halves": True, **configuration})


@pytest.mark.parametrize(
    ("channels", "out", "k", "taken"),
    [
        (64, 24, 1, True),
        (64, 40, 1, True),
        (240, 72, 1, True),
        (64, 32, 1, False),  # whole blocks
        (64, 25, 1, False),  # more than half of the last one is filled
        (40, 120, 1, False),  # one half in 16, and a short reduction
        (512, 40, 3, False),  # many weights
        (3, 24, 3, False),  # plain, without blocks
    ],
)
def test_which_convolutions_are_computed_so(channels: int, out: int, k: int, taken: bool) -> None:
    group = conv((1, channels, 14, 14), out, (k, k), "" if channels == 3 else "NCHW16c")
    assert (half_blocks.lower(group, V4, Choices()) is not None) == taken
    assert half_blocks.lower(group, V4, Choices({"halves": False})) is None


def test_a_choice_takes_whole_blocks() -> None:
    group = conv((1, 64, 14, 14), 24, (1, 1), "NCHW16c")
    for halves, (wanted, other) in {True: ("pixels", "tile"), False: ("tile", "pixels")}.items():
        names = {choice.name for choice in select.lower(group, V4, {"halves": halves}).space}
        assert wanted in names and other not in names


def test_other_processors_have_whole_blocks() -> None:
    for target in (targets.TARGETS["neoverse-n1"], targets.TARGETS["c"]):
        group = conv((1, 64, 14, 14), 3 * target.lanes // 2, (1, 1), target.blocked_layout)
        assert half_blocks.lower(group, target, Choices({"halves": True})) is None
