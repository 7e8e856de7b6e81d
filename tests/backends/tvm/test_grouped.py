"""Grouped convolutions against PyTorch: groups that fill blocks of channels, are joined to do so, or cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_programs import NATIVE, TARGETS, check, program, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import grouped
from specc.backends.tvm.packing import Packing
from specc.targets import Target


def conv(shape: tuple[int, ...], groups: int, out: int, k: tuple[int, int], layout: str, **attrs: Any) -> Group:
    """A grouped convolution with a bias and what follows it in a network: a ReLU."""
    inputs = [tensor(*shape, layout=layout), weight(out, shape[1] // groups, *k), weight(out)]
    return program(inputs, ("conv2d", range(3), {**attrs, "groups": groups}), ("relu", [3], {}))


CASES: list[tuple[tuple[int, ...], int, int, tuple[int, int], dict[str, Any]]] = [
    ((1, 64, 9, 11), 2, 96, (3, 3), {"padding": 1}),  # 32 channels to 48: every group by itself
    ((2, 64, 7, 7), 16, 64, (3, 3), {"padding": 1, "stride": 2}),  # 4 to 4: four are joined, with 16 lanes
    ((1, 96, 8, 8), 4, 96, (3, 3), {"padding": 1}),  # 24 to 24: two are joined
    ((1, 60, 6, 5), 3, 36, (1, 1), {}),  # 20 to 12: all are joined, and do not fill their blocks
    ((1, 32, 8, 30), 4, 128, (1, 1), {}),  # 8 to 32, height and width as one axis
    ((3, 80, 5, 9), 5, 80, (3, 2), {"padding": [2, 1, 0, 1], "dilation": [2, 1]}),
    ((1, 128, 1, 1), 4, 64, (1, 1), {}),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "groups", "out", "k", "attrs"), CASES)
def test_equals_torch(
    target: Target, shape: tuple[int, ...], groups: int, out: int, k: tuple[int, int], attrs: dict[str, Any]
) -> None:
    check(conv(shape, groups, out, k, target.blocked_layout, **attrs), grouped.lower, target)


PLAIN: list[tuple[tuple[int, ...], int, int, tuple[int, int], dict[str, Any]]] = [
    ((1, 12, 9, 11), 3, 48, (2, 2), {"padding": 1}),
    ((2, 64, 6, 7), 4, 64, (3, 3), {"padding": 1, "stride": 2}),
    ((1, 30, 8, 10), 6, 24, (1, 1), {}),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "groups", "out", "k", "attrs"), PLAIN)
def test_inputs_in_rows(
    target: Target, shape: tuple[int, ...], groups: int, out: int, k: tuple[int, int], attrs: dict[str, Any]
) -> None:
    check(conv(shape, groups, out, k, "", **attrs), grouped.lower, target)


@pytest.mark.parametrize(
    "configuration",
    [
        {"order": "blocks", "strips": 3, "ahead": True},
        {"order": "strips", "strips": 2, "ahead": True, "results": True, "inputs": True},
        {"chunks": 2, "strips": 1},
    ],
    ids=["blocks", "strips", "chunks"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_order_equals_torch(batch: int, configuration: dict[str, Any]) -> None:
    group = conv((batch, 128, 9, 13), 2, 96, (3, 3), NATIVE.blocked_layout, padding=1)
    check(group, grouped.lower, configuration=configuration)


@pytest.mark.parametrize(
    ("groups", "inputs", "outputs", "inner", "together"),
    [
        (2, 32, 48, 16, 1),
        (32, 4, 4, 16, 4),
        (6, 24, 24, 16, 2),
        (3, 24, 24, 16, 3),
        (64, 1, 2, 16, 16),
        (4, 3, 16, 1, 1),
    ],
)
def test_the_fewest_that_fill_blocks_are_joined(
    groups: int, inputs: int, outputs: int, inner: int, together: int
) -> None:
    assert grouped._together(groups, inputs, outputs, inner, 16) == together


def test_many_groups_that_cannot_fill_blocks_are_left_to_the_general_template() -> None:
    assert grouped._together(17, 3, 5, 16, 16) is None
    group = conv((1, 51, 4, 4), 17, 85, (3, 3), NATIVE.blocked_layout)
    assert NATIVE.lanes < 16 or grouped.lower(group, NATIVE, Choices()) is None


def test_dense_ones_are_left_to_others() -> None:
    assert grouped.lower(conv((1, 32, 4, 4), 1, 32, (1, 1), NATIVE.blocked_layout), NATIVE, Choices()) is None


def test_joined_weights_have_zeros_between_the_groups() -> None:
    array = np.arange(1.0, 25.0).reshape(6, 4, 1, 1)  # three groups of two outputs and four inputs
    packed = Packing("grouped", 2, 4, groups=3, together=3).apply(array)
    assert packed.shape == (3, 3, 1, 1, 4, 2)
    for block in range(3):
        for inputs in range(3):
            wanted = array[2 * block : 2 * block + 2, :, 0, 0].T if block == inputs else np.zeros((4, 2))
            assert np.array_equal(packed[block, inputs, 0, 0], wanted)
