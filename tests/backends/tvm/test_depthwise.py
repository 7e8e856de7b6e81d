"""Depthwise convolutions against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_programs import TARGETS, check, program, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import depthwise
from specc.targets import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("shape", "k", "attrs"),
    [
        ((1, 32, 14, 14), (3, 3), {"padding": 1}),
        ((2, 20, 9, 13), (5, 5), {"padding": 2, "stride": 2}),
        ((1, 33, 12, 30), (7, 7), {"padding": 3}),
        ((1, 16, 12, 31), (3, 3), {"padding": 2, "dilation": 2}),
        ((1, 16, 8, 5), (2, 3), {"padding": [0, 1, 2, 0], "stride": [1, 3]}),
        ((3, 8, 1, 1), (3, 3), {"padding": 1}),
        ((1, 16, 18, 35), (31, 31), {"padding": 15}),
        ((1, 16, 5, 40), (1, 31), {"padding": [0, 15, 0, 15]}),
    ],
)
def test_equals_torch(target: Target, shape: tuple[int, ...], k: tuple[int, int], attrs: dict[str, Any]) -> None:
    channels = shape[1]
    inputs = [tensor(*shape, layout=target.blocked_layout), weight(channels, 1, *k), weight(channels)]
    steps = ("conv2d", (0, 1, 2), {**attrs, "groups": channels}), ("hard_swish", (3,), {})
    check(program(inputs, *steps), depthwise.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("channels", "filters"), [(32, 2), (16, 3), (48, 4)])
def test_several_filters_a_channel(target: Target, channels: int, filters: int) -> None:
    inputs = [tensor(1, channels, 11, 17, layout=target.blocked_layout), weight(channels * filters, 1, 5, 3)]
    attrs = {"padding": [2, 1, 2, 1], "stride": [2, 1], "groups": channels}
    operands = [*inputs, weight(channels * filters), weight(1, channels * filters, 1, 1)]
    steps = ("conv2d", (0, 1, 2), attrs), ("gelu", (4,), {}), ("mul", (5, 3), {})
    check(program(operands, *steps), depthwise.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("across", [13, 31])
def test_windows_of_many_columns_leave_registers_for_sums(target: Target, across: int) -> None:
    inputs = [tensor(1, 16, 56, 56, layout=target.blocked_layout), weight(16, 1, 3, across)]
    group = program(inputs, ("conv2d", (0, 1), {"padding": [1, across // 2, 1, across // 2], "groups": 16}))
    choices = Choices()
    assert depthwise.lower(group, target, choices) is not None
    (pixels,) = (choice.taken for choice in choices.space if choice.name == "pixels")
    assert isinstance(pixels, int) and target.vector_registers // 4 <= pixels <= target.vector_registers - 2


def test_several_filters_of_channels_that_fill_no_block_are_refused() -> None:
    inputs = [tensor(1, 20, 5, 5, layout=TARGETS[0].blocked_layout), weight(40, 1, 3, 3)]
    group = program(inputs, ("conv2d", (0, 1), {"groups": 20}))
    assert depthwise.lower(group, TARGETS[0], Choices()) is None
