"""Convolutions in tiles of AMX: of bfloat16 near the reference, of integers equal to it in every bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulation import processor
from kernel_programs import check, execute, program, reference, weight
from test_integer import drawn, integers
from test_pairs import ROUNDING, half

from specc import targets
from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiled

TARGET = processor.able(targets.TARGETS["x86-64-v4-amx"])
LAYOUT = TARGET.blocked_layout

pytestmark = pytest.mark.usefixtures("matrix_tiles")

CONVOLUTIONS: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 64, 7, 7), 96, (1, 1), {}),
    ((2, 70, 14, 14), 33, (1, 1), {}),
    ((1, 128, 9, 11), 32, (1, 1), {"stride": 2}),
    ((1, 64, 7, 7), 48, (3, 3), {"padding": 1}),
    ((2, 48, 13, 9), 33, (3, 2), {"padding": [0, 1, 3, 2], "stride": 2}),
    ((1, 36, 9, 13), 16, (3, 3), {"padding": 1, "stride": [2, 1]}),
    ((1, 16, 9, 13), 20, (3, 3), {"padding": 2, "dilation": 2}),
    ((1, 20, 11, 12), 24, (3, 3), {"padding": 1, "dilation": 2, "stride": 3}),
    ((1, 16, 2, 2), 16, (7, 7), {"padding": 3}),
    ((1, 144, 1, 1), 40, (1, 1), {}),
]


def numbers(*shape: int, layout: str = LAYOUT) -> Any:
    return integers(*shape, layout=layout)


def convolved(shape: tuple[int, ...], out: int, kernel: tuple[int, int], attrs: dict[str, Any], *acts: str) -> Group:
    """A convolution of bfloat16, a scale and a residual of bfloat16, activations, and the result in bfloat16."""
    inputs = [half(*shape, layout=LAYOUT), half(out, shape[1], *kernel, frozen=True), weight(out)]
    result = program(inputs, ("conv2d", [0, 1, 2], attrs)).result
    inputs += [half(*result.concrete, layout=result.layout), weight(out, 1, 1)]
    steps: list[tuple[str, list[int], dict[str, Any]]] = [("mul", [5, 4], {}), ("add", [6, 3], {})]
    steps += [(act, [7 + i], {}) for i, act in enumerate(acts)]
    cast = ("cast", [7 + len(acts)], {"dtype": "bfloat16"})
    return program(inputs, ("conv2d", [0, 1, 2], attrs), *steps, cast)


def exact(group: Group, configuration: Configuration = NOTHING) -> None:
    template = tiled.convolution(group, TARGET, Choices(configuration))
    assert template is not None
    for extreme in (False, True):
        arrays = drawn(group, extreme)
        (result,) = execute(kernel_of(group, template), group, arrays, TARGET)
        (expected,) = reference(group, arrays)
        assert result.dtype == expected.dtype and np.array_equal(result, expected)
        assert len(np.unique(result)) > 1


@pytest.mark.parametrize(("shape", "out", "k", "attrs"), CONVOLUTIONS)
def test_convolutions_of_bfloat16(shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: Any) -> None:
    check(convolved(shape, out, k, attrs, "relu"), tiled.convolution, TARGET, ROUNDING)


@pytest.mark.parametrize("shape", [(1, 70, 7, 7), (2, 32, 14, 9)])
def test_sums_are_those_of_float32(shape: tuple[int, ...]) -> None:
    inputs = [half(*shape, layout=LAYOUT), half(33, shape[1], 3, 3, frozen=True), weight(33)]
    check(program(inputs, ("conv2d", [0, 1, 2], {"padding": 1})), tiled.convolution, TARGET)


@pytest.mark.parametrize("act", ["gelu", "silu", "sigmoid"])
def test_epilogues(act: str) -> None:
    check(convolved((1, 48, 14, 14), 40, (1, 1), {}, act), tiled.convolution, TARGET, ROUNDING)


@pytest.mark.parametrize("k", [1, 3])
def test_a_plain_result(k: int) -> None:
    inputs = [half(2, 48, 9, 14, layout=LAYOUT), half(40, 48, k, k, frozen=True), weight(40)]
    steps = ("conv2d", [0, 1, 2], {"padding": k // 2}), ("convert_layout", [3], {"layout": ""})
    check(program(inputs, *steps), tiled.convolution, TARGET)


@pytest.mark.parametrize("outside", [0, 7, 255])
@pytest.mark.parametrize(("shape", "out", "k", "attrs"), CONVOLUTIONS)
def test_convolutions_of_integers(
    shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: Any, outside: int
) -> None:
    if outside and "padding" not in attrs:
        pytest.skip("reads nothing outside")
    inputs = [numbers(*shape), integers(out, shape[1], *k, dtype="int8", frozen=True)]
    inputs.append(integers(out, dtype="int32", frozen=True))
    exact(program(inputs, ("conv2d_integer", (0, 1, 2), {**attrs, "outside": outside})))


@pytest.mark.parametrize("k", [1, 3])
def test_integers_are_rounded_to_integers(k: int) -> None:
    inputs = [numbers(1, 72, 20, 13), integers(40, 72, k, k, dtype="int8", frozen=True), weight(40, 1, 1)]
    inputs += [numbers(1, 40, 20, 13), weight(1), weight(1)]
    group = program(
        inputs,
        ("conv2d_integer", (0, 1), {"padding": k // 2, "outside": 3}),
        ("dequantize", (3, 4), {"zero": 9}),
        ("dequantize", (6, 2), {}),
        ("add", (8, 7), {}),
        ("quantize", (9, 5), {"zero": 60}),
    )
    arrays = drawn(group)
    arrays[4], arrays[5] = np.array([0.0271], np.float32), np.array([1.33], np.float32)
    template = tiled.convolution(group, TARGET, Choices())
    assert template is not None
    (result,) = execute(kernel_of(group, template), group, arrays, TARGET)
    assert np.array_equal(result, reference(group, arrays)[0])


@pytest.mark.parametrize("unit", ["1x1", "2x2", "4x1", "1x4", "2x1", "1x5", "3x1"])
@pytest.mark.parametrize("order", ["strips", "blocks"])
def test_every_unit_and_order_computes_the_same(unit: str, order: str) -> None:
    inputs = [numbers(2, 70, 13, 9), integers(80, 70, 3, 3, dtype="int8", frozen=True)]
    group = program(inputs, ("conv2d_integer", (0, 1), {"padding": 1, "outside": 4}))
    exact(group, {"unit": unit, "order": order})


@pytest.mark.parametrize("asked", [{"strips": 1, "ahead": True}, {"soon": 4}, {"strips": 2, "soon": 2}])
def test_requests_for_weights_change_nothing(asked: dict[str, Any]) -> None:
    inputs = [numbers(1, 130, 14, 14), integers(80, 130, 3, 3, dtype="int8", frozen=True)]
    group = program(inputs, ("conv2d_integer", (0, 1), {"padding": 1, "outside": 4}))
    exact(group, {"order": "blocks", "unit": "2x2", **asked})


def test_few_channels_keep_the_instructions_of_vectors() -> None:
    group = program(
        [numbers(1, 16, 14, 14), integers(16, 16, 1, 1, dtype="int8", frozen=True)], ("conv2d_integer", (0, 1), {})
    )
    assert tiled.convolution(group, TARGET, Choices()) is None
