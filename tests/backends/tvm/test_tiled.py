"""Convolutions in tiles of AMX: of bfloat16 near the reference, of integers equal to it in every bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from emulation import processor
from hypothesis import given, settings, strategies
from kernel_programs import check, draw, execute, program, reference, weight
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

PICTURES: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 3, 32, 36), 33, (7, 7), {"stride": 2, "padding": 3}),
    ((2, 3, 17, 21), 32, (3, 3), {"stride": 2, "padding": 1}),
    ((1, 1, 28, 28), 8, (5, 5), {"padding": 2}),
    ((1, 2, 20, 37), 8, (3, 4), {"dilation": 2}),
    ((1, 3, 32, 32), 40, (16, 16), {"stride": 16}),
    ((1, 4, 9, 50), 16, (11, 11), {"stride": [3, 4], "padding": [2, 5, 1, 0]}),
    ((1, 3, 9, 5), 16, (2, 3), {"dilation": [3, 1], "padding": [3, 2, 0, 1]}),
    ((1, 3, 2, 2), 16, (7, 7), {"padding": 3}),
    ((1, 3, 14, 14), 16, (1, 1), {}),
]
"""Plain operands of few channels."""

TILES = {"tiles": True}
"""Also where another template is faster."""


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


@pytest.mark.parametrize(("shape", "out", "k", "attrs"), PICTURES)
def test_pictures_of_bfloat16(shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: Any) -> None:
    inputs = [half(*shape), half(out, shape[1], *k, frozen=True), weight(out)]
    check(program(inputs, ("conv2d", [0, 1, 2], attrs)), tiled.convolution, TARGET, configuration=TILES)
    steps = ("conv2d", [0, 1, 2], attrs), ("relu", [3], {}), ("convert_layout", [4], {"layout": LAYOUT})
    check(program(inputs, *steps), tiled.convolution, TARGET, configuration=TILES)


@pytest.mark.parametrize("outside", [0, 255])
@pytest.mark.parametrize(("shape", "out", "k", "attrs"), PICTURES[:-1])
def test_pictures_of_integers(shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: Any, outside: int) -> None:
    inputs = [numbers(*shape, layout=""), integers(out, shape[1], *k, dtype="int8", frozen=True)]
    steps = ("conv2d_integer", (0, 1), {**attrs, "outside": outside}), ("convert_layout", [2], {"layout": LAYOUT})
    exact(program(inputs, *steps), TILES)


@settings(max_examples=10, deadline=None)
@given(data=strategies.data())
def test_any_picture(data: strategies.DataObject) -> None:
    pairs = [[data.draw(strategies.integers(1, 9)) for _ in range(2)] for _ in range(3)]
    kernel, stride, dilation = pairs[0], [min(s, 4) for s in pairs[1]], [min(d, 3) for d in pairs[2]]
    padding = [data.draw(strategies.integers(0, 3)) for _ in range(4)]
    sides = [(k - 1) * d + data.draw(strategies.integers(1, 40)) for k, d in zip(kernel, dilation)]
    shape = (data.draw(strategies.integers(1, 2)), data.draw(strategies.integers(1, 4)), *sides)
    attrs = {
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "outside": data.draw(strategies.integers(0, 9)),
    }
    inputs = [numbers(*shape, layout=""), integers(20, shape[1], *kernel, dtype="int8", frozen=True)]
    group = program(inputs, ("conv2d_integer", (0, 1), attrs))
    template = tiled.convolution(group, TARGET, Choices(TILES))
    assert template is not None
    arrays = drawn(group)
    assert np.array_equal(execute(kernel_of(group, template), group, arrays, TARGET)[0], reference(group, arrays)[0])


def test_a_pixel_that_is_no_number_stays_in_its_windows() -> None:
    """A window of five columns is one of five, not of eight of which three count nothing."""
    group = program(
        [half(1, 3, 8, 40), half(16, 3, 5, 5, frozen=True)], ("conv2d", [0, 1], {"padding": [2, 2, 2, 2], "stride": 1})
    )
    template = tiled.convolution(group, TARGET, Choices(TILES))
    assert template is not None
    arrays = draw(group)
    arrays[0][0, 1, 4, 20] = np.nan
    (result,) = execute(kernel_of(group, template), group, arrays, TARGET)
    inside = np.zeros((8, 40), bool)
    inside[2:7, 18:23] = True
    assert np.array_equal(np.isnan(result), np.broadcast_to(inside, result.shape))


def test_small_layers_of_pictures_keep_the_instructions_of_vectors() -> None:
    inputs = [half(1, 3, 32, 32), half(16, 3, 3, 3, frozen=True)]
    assert tiled.convolution(program(inputs, ("conv2d", [0, 1], {})), TARGET, Choices()) is None


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


@pytest.mark.parametrize(
    ("shape", "out", "k", "attrs"),
    [
        (shape, out, k, {**attrs, "outside": outside})
        for shape, out, k, attrs in CONVOLUTIONS
        for outside in ((0, 7, 255) if "padding" in attrs else (0,))
    ],
)
def test_convolutions_of_integers(shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: Any) -> None:
    inputs = [numbers(*shape), integers(out, shape[1], *k, dtype="int8", frozen=True)]
    inputs.append(integers(out, dtype="int32", frozen=True))
    exact(program(inputs, ("conv2d_integer", (0, 1, 2), attrs)))


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


@pytest.mark.parametrize(
    ("shape", "out", "unit"),
    [
        *product([(2, 70, 13, 9), (1, 16, 21, 17)], [64], ["2x2", "1x2", "1x4"]),
        *product([(1, 256, 3, 3)], [128], ["2x2", "1x2", "1x4"]),
        ((1, 33, 9, 9), 16, "3x1"),
    ],
)
def test_units_that_pack_their_part_compute_the_same(shape: tuple[int, ...], out: int, unit: str) -> None:
    asked = {"near": True, "unit": unit}
    inputs = [numbers(*shape), integers(out, shape[1], 1, 1, dtype="int8", frozen=True)]
    exact(program(inputs, ("conv2d_integer", (0, 1), {})), {"tiles": True, **asked})
    check(convolved(shape, out, (1, 1), {}, "relu"), tiled.convolution, TARGET, ROUNDING, configuration=asked)


def test_where_units_pack_their_part() -> None:
    """Where all weights may be read for every one of them, and no result reads what another one does."""
    found = {}
    for name, shape, out, k in (
        ("large", (1, 256, 56, 56), 64, 1),
        ("window", (1, 64, 56, 56), 64, 3),
        ("weights", (1, 256, 14, 14), 1024, 1),
        ("odd", (1, 64, 28, 28), 112, 1),
    ):
        group = program(
            [half(*shape, layout=LAYOUT), half(out, shape[1], k, k, frozen=True)],
            ("conv2d", [0, 1], {"padding": k // 2}),
        )
        choices = Choices()
        assert tiled.convolution(group, TARGET, choices) is not None
        found[name] = {choice.name: choice.taken for choice in choices.space}.get("near", False)
    assert found == {"large": True, "window": False, "weights": False, "odd": False}


@pytest.mark.parametrize("asked", [{"strips": 1, "ahead": True}, {"soon": 4}, {"strips": 2, "soon": 2}])
def test_requests_for_weights_change_nothing(asked: dict[str, Any]) -> None:
    inputs = [numbers(1, 130, 14, 14), integers(80, 130, 3, 3, dtype="int8", frozen=True)]
    group = program(inputs, ("conv2d_integer", (0, 1), {"padding": 1, "outside": 4}))
    exact(group, {"order": "blocks", "unit": "2x2", **asked})


@pytest.mark.parametrize(
    ("shape", "k", "chunk", "asked"),
    [
        ((1, 256, 9, 14), 3, 1, {"unit": "2x2"}),
        ((1, 256, 9, 14), 3, 2, {"unit": "2x2", "ahead": True}),
        ((2, 384, 7, 9), 1, 2, {"near": False, "unit": "1x4", "ahead": True}),
        ((2, 384, 7, 9), 1, 3, {"near": False, "unit": "2x1", "ahead": False}),
        ((1, 200, 7, 7), 2, 1, {"unit": "1x2"}),
    ],
)
def test_a_reduction_in_chunks_computes_the_same(shape: Any, k: int, chunk: int, asked: dict[str, Any]) -> None:
    """Sums go to memory and come back as they were; also of groups with fewer blocks than others."""
    asked = {"order": "blocks", "strips": 1, "chunk": chunk, **asked}
    inputs = [numbers(*shape), integers(80, shape[1], k, k, dtype="int8", frozen=True)]
    inputs.append(integers(80, dtype="int32", frozen=True))
    group = program(inputs, ("conv2d_integer", (0, 1, 2), {"padding": k // 2, "outside": 4 * (k // 2)}))
    choices = Choices(asked)
    assert tiled.convolution(group, TARGET, choices) is not None
    assert {choice.name: choice.taken for choice in choices.space}.items() >= asked.items()
    exact(group, asked)
    layer = convolved(shape, 80, (k, k), {"padding": k // 2}, "relu")
    check(layer, tiled.convolution, TARGET, ROUNDING, configuration=asked)


@pytest.mark.parametrize(
    ("shape", "out", "k", "chunk"),
    [
        ((1, 256, 14, 14), 256, 3, 1),
        ((1, 1024, 14, 14), 256, 1, 8),
        ((1, 64, 56, 56), 64, 3, None),  # in strips
        ((1, 256, 14, 14), 1024, 1, 0),  # the first-level cache holds all weights of a group
        ((1, 512, 7, 7), 512, 1, 0),  # too few units read them
        ((1, 96, 66, 66), 128, 3, 0),  # sums of all units would fill the second-level cache
    ],
)
def test_where_the_reduction_is_in_chunks(shape: tuple[int, ...], out: int, k: int, chunk: int | None) -> None:
    layer = program(
        [half(*shape, layout=LAYOUT), half(out, shape[1], k, k, frozen=True)], ("conv2d", [0, 1], {"padding": k // 2})
    )
    choices = Choices()
    assert tiled.convolution(layer, replace(TARGET, l1_bytes=48 << 10, l2_bytes=2 << 20), choices) is not None
    assert {choice.name: choice.taken for choice in choices.space}.get("chunk") == chunk


def test_few_channels_keep_the_instructions_of_vectors() -> None:
    group = program(
        [numbers(1, 16, 14, 14), integers(16, 16, 1, 1, dtype="int8", frozen=True)], ("conv2d_integer", (0, 1), {})
    )
    assert tiled.convolution(group, TARGET, Choices()) is None
