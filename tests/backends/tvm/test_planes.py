"""Depthwise convolutions of plain tensors against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_programs import NATIVE, WIDTHS, check, program, tensor, weight

from specc.backends.tvm.choices import Choices, Configuration
from specc.backends.tvm.group import Input
from specc.backends.tvm.kernels import planes
from specc.ir.types import TensorType
from specc.targets import Target


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("shape", "k", "attrs"),
    [
        ((1, 2, 16, 112), (3, 3), {"padding": 1}),
        ((1, 3, 20, 56), (7, 7), {"padding": 3}),
        ((2, 12, 28, 28), (3, 3), {"padding": 1, "stride": 2}),
        ((2, 5, 9, 13), (5, 5), {"padding": 2, "stride": 2}),
        ((1, 3, 17, 35), (3, 3), {"padding": 2, "dilation": 2}),
        ((1, 7, 8, 5), (2, 3), {"padding": [0, 1, 2, 0], "stride": [1, 3]}),
        ((3, 8, 1, 1), (3, 3), {"padding": 1}),
        ((1, 6, 18, 35), (31, 31), {"padding": 15}),
        ((1, 6, 5, 40), (1, 11), {"padding": [0, 5, 0, 5]}),
        ((1, 6, 40, 5), (11, 1), {"padding": [5, 0, 5, 0]}),
        ((1, 2, 12, 66), (3, 3), {"stride": [1, 2]}),
        ((1, 2, 11, 33), (4, 4), {"padding": [20, 20, 1, 1], "stride": [3, 2], "dilation": [1, 3]}),
    ],
)
def test_equals_torch(target: Target, shape: tuple[int, ...], k: tuple[int, int], attrs: dict[str, Any]) -> None:
    channels = shape[1]
    inputs = [tensor(*shape), weight(channels, 1, *k), weight(channels)]
    steps = ("conv2d", (0, 1, 2), {**attrs, "groups": channels}), ("hard_swish", (3,), {})
    check(program(inputs, *steps), planes.lower, target)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
@pytest.mark.parametrize("stride", [1, 2])
def test_residuals_and_scales(target: Target, stride: int) -> None:
    inputs = [tensor(2, 5, 14, 38), weight(5, 1, 3, 3), tensor(2, 5, 14 // stride, 38 // stride), weight(5, 1, 1)]
    conv = ("conv2d", (0, 1), {"padding": 1, "stride": stride, "groups": 5})
    check(program(inputs, conv, ("mul", (4, 3), {}), ("add", (5, 2), {}), ("gelu", (6,), {})), planes.lower, target)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
def test_several_filters_a_channel(target: Target) -> None:
    inputs = [tensor(2, 3, 10, 21), weight(6, 1, 5, 3), weight(6)]
    attrs = {"padding": [2, 1, 2, 1], "stride": [2, 1], "groups": 3}
    check(program(inputs, ("conv2d", (0, 1, 2), attrs)), planes.lower, target)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
@pytest.mark.parametrize("stride", [1, 2])
def test_factors_of_16_bits(target: Target, stride: int) -> None:
    narrow = [Input(TensorType((1, 5, 12, 19), "bfloat16")), Input(TensorType((5, 1, 3, 3), "bfloat16"), frozen=True)]
    check(program(narrow, ("conv2d", (0, 1), {"padding": 1, "stride": stride, "groups": 5})), planes.lower, target)


@pytest.mark.parametrize(
    "configuration", [{"strips": 8}, {"vectors": 1, "rows": 3}, {"strips": 2, "vectors": 3, "rows": 8}]
)
def test_other_tiles(configuration: Configuration) -> None:
    inputs = [tensor(1, 3, 16, 60), weight(3, 1, 3, 5)]
    group = program(inputs, ("conv2d", (0, 1), {"padding": [1, 2, 1, 2], "groups": 3}))
    choices = Choices(configuration)
    assert planes.lower(group, NATIVE, choices) is not None
    assert {choice.name: choice.taken for choice in choices.space}.items() >= configuration.items()
    check(group, planes.lower, configuration=configuration)


def test_a_copy_of_a_strip_takes_half_of_the_nearest_cache() -> None:
    inputs = [tensor(1, 8, 224, 224), weight(8, 1, 3, 3)]
    group, choices = program(inputs, ("conv2d", (0, 1), {"padding": 1, "groups": 8})), Choices()
    assert planes.lower(group, NATIVE, choices) is not None
    (strips,) = (choice.taken for choice in choices.space if choice.name == "strips")
    assert isinstance(strips, int) and 224 % strips == 0
    assert 2 * 4 * (224 // strips + 2) * 226 <= NATIVE.l1_bytes


@pytest.mark.parametrize(
    ("layout", "groups", "steps"),
    [
        (NATIVE.blocked_layout, 32, []),
        ("", 2, []),
        ("", 32, [("convert_layout", (2,), {"layout": NATIVE.blocked_layout})]),
    ],
    ids=["blocks", "groups", "blocks behind it"],
)
def test_others_are_refused(layout: str, groups: int, steps: list[tuple[str, tuple[int, ...], dict[str, Any]]]) -> None:
    inputs = [tensor(1, 32, 8, 8, layout=layout), weight(32, 32 // groups, 3, 3)]
    group = program(inputs, ("conv2d", (0, 1), {"groups": groups}), *steps)
    assert planes.lower(group, NATIVE, Choices()) is None
