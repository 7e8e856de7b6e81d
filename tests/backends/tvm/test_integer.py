"""Layers of integers: kernels equal PyTorch in every bit, with and without instructions for dot products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_programs import TARGETS, Lowering, execute, program, reference, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import general, integer, pooling
from specc.ir.dtypes import SMALL
from specc.ir.types import TensorType
from specc.targets import Target

every_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


def integers(*shape: int, dtype: str = "uint8", layout: str = "", frozen: bool = False) -> Input:
    return Input(TensorType(shape, dtype, layout), frozen)


def drawn(group: Group, extreme: bool = False) -> list[np.ndarray[Any, Any]]:
    """Integers of all their range, or its ends alone; scales that bring sums of products to 0 ... 255 or so."""
    rng = np.random.default_rng(0)
    arrays = []
    for operand in group.inputs:
        shape, dtype = operand.type.concrete, operand.type.dtype
        if dtype in SMALL:
            least, greatest = SMALL[dtype]
            numbers = rng.choice((least, greatest), shape) if extreme else rng.integers(least, greatest + 1, shape)
            arrays.append(numbers.astype(dtype))
        elif dtype == "int32":
            arrays.append(rng.integers(-100_000, 100_000, shape).astype(dtype))
        else:
            arrays.append((rng.random(shape) * 1e-3 + 1e-4).astype(dtype))
    return arrays


def check_exact(group: Group, lowering: Lowering, target: Target, arrays: list[np.ndarray[Any, Any]]) -> None:
    template = lowering(group, target, Choices())
    assert template is not None, "the template does not take the group"
    (result,) = execute(kernel_of(group, template), group, arrays, target)
    (expected,) = reference(group, arrays)
    assert result.dtype == expected.dtype and np.array_equal(result, expected)
    assert len(np.unique(result)) > 1


CONVOLUTIONS: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 32, 14, 14), 48, (1, 1), {}),
    ((2, 4, 5, 9), 7, (1, 1), {"stride": 2}),
    ((1, 24, 13, 9), 33, (3, 3), {"padding": 1}),
    ((1, 24, 13, 9), 33, (3, 3), {"padding": 1, "outside": 7}),
    ((2, 17, 13, 9), 33, (3, 2), {"padding": [0, 1, 3, 2], "stride": 2, "outside": 200}),
    ((1, 20, 9, 13), 16, (3, 3), {"padding": 2, "dilation": 2, "outside": 128}),
    ((1, 16, 2, 2), 16, (7, 7), {"padding": 3, "outside": 255}),
]


@every_target
@pytest.mark.parametrize(("shape", "out", "k", "attrs"), CONVOLUTIONS)
def test_a_convolution(target: Target, shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: Any) -> None:
    layout = target.blocked_layout
    inputs = [
        integers(*shape, layout=layout),
        integers(out, shape[1], *k, dtype="int8", frozen=True),
        integers(out, dtype="int32", frozen=True),
    ]
    group = program(inputs, ("conv2d_integer", (0, 1, 2), attrs))
    check_exact(group, integer.convolution, target, drawn(group))


@every_target
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("k", "attrs"), [((7, 7), {"padding": 3, "stride": 2, "outside": 114}), ((1, 1), {}), ((3, 3), {"padding": 1})]
)
def test_a_convolution_of_few_channels(target: Target, channels: int, k: tuple[int, int], attrs: Any) -> None:
    inputs = [
        integers(2, channels, 19, 37),
        integers(24, channels, *k, dtype="int8", frozen=True),
        integers(24, dtype="int32", frozen=True),
    ]
    group = program(
        inputs, ("conv2d_integer", (0, 1, 2), attrs), ("convert_layout", (3,), {"layout": target.blocked_layout})
    )
    check_exact(group, integer.convolution, target, drawn(group))


@every_target
@pytest.mark.parametrize(("rows", "inputs", "out"), [(1, 64, 40), (5, 20, 33), (30, 256, 24), (7, 17, 17), (2, 3, 5)])
def test_a_linear_layer(target: Target, rows: int, inputs: int, out: int) -> None:
    group = program(
        [integers(rows, inputs), integers(out, inputs, dtype="int8", frozen=True), weight(out), weight(1)],
        ("linear_integer", (0, 1), {}),
        ("dequantize", (4, 2), {}),
        ("relu", (5,), {}),
        ("quantize", (6, 3), {"zero": 5}),
    )
    arrays = drawn(group)
    arrays[3] = np.array([12.7], np.float32)
    check_exact(group, integer.linear, target, arrays)


@every_target
@pytest.mark.parametrize("ends", [True, False])
def test_a_residual_sum_is_rounded_as_the_reference_rounds_it(target: Target, ends: bool) -> None:
    """No product of the epilogue is fused with the sum behind it: that would round once less."""
    layout = target.blocked_layout
    inputs = [
        integers(1, 24, 20, 20, layout=layout),
        integers(40, 24, 3, 3, dtype="int8", frozen=True),
        weight(40, 1, 1),
        integers(1, 40, 20, 20, layout=layout),
        weight(1),
        weight(1),
    ]
    group = program(
        inputs,
        ("conv2d_integer", (0, 1), {"padding": 1, "outside": 3}),
        ("dequantize", (3, 4), {"zero": 9}),
        ("dequantize", (6, 2), {}),
        ("add", (8, 7), {}),
        ("quantize", (9, 5), {"zero": 60}),
    )
    arrays = drawn(group, ends)
    arrays[4], arrays[5] = np.array([0.0271], np.float32), np.array([1.33], np.float32)
    for lowering in (integer.convolution, general.lower):
        check_exact(group, lowering, target, arrays)


@every_target
@pytest.mark.parametrize("k", [1, 3])
def test_an_operand_is_added_to_what_a_convolution_makes_of_it(target: Target, k: int) -> None:
    inputs = [
        integers(1, 40, 12, 17, layout=target.blocked_layout),
        integers(40, 40, k, k, dtype="int8", frozen=True),
        weight(40, 1, 1),
        weight(40, 1, 1),
        weight(1),
    ]
    group = program(
        inputs,
        ("conv2d_integer", (0, 1), {"padding": k // 2, "outside": 9 * (k // 2)}),
        ("dequantize", (0, 3), {"zero": 9}),
        ("dequantize", (5, 2), {}),
        ("add", (7, 6), {}),
        ("quantize", (8, 4), {"zero": 60}),
    )
    arrays = drawn(group)
    arrays[3] = (np.random.default_rng(1).random((40, 1, 1)) - 0.5).astype(np.float32)
    arrays[4] = np.array([0.8], np.float32)
    for lowering in (integer.convolution, general.lower):
        check_exact(group, lowering, target, arrays)


@every_target
@pytest.mark.parametrize("sign", [-128, 127])
def test_nothing_saturates_on_the_way(target: Target, sign: int) -> None:
    """255 * 127 + 255 * 127 leaves 16 bits, where older instructions for such products stop."""
    layout = target.blocked_layout
    convolution = program(
        [integers(1, 64, 3, 8, layout=layout), integers(16, 64, 3, 3, dtype="int8", frozen=True)],
        ("conv2d_integer", (0, 1), {"padding": 1, "outside": 255}),
    )
    linear = program([integers(2, 512), integers(16, 512, dtype="int8", frozen=True)], ("linear_integer", (0, 1), {}))
    for group, lowering in ((convolution, integer.convolution), (linear, integer.linear)):
        activations, weights = (operand.type.concrete for operand in group.inputs)
        arrays = [np.full(activations, 255, np.uint8), np.full(weights, sign, np.int8)]
        template = lowering(group, target, Choices())
        assert template is not None
        (result,) = execute(kernel_of(group, template), group, arrays, target)
        assert (result == 255 * sign * np.prod(weights[1:])).all()


def test_real_numbers_round_to_the_nearest_even_integer() -> None:
    target = TARGETS[0]
    numbers = np.array([[-0.5, 0.5, 1.5, 2.5, 2.5000002, 254.5, 255.5, 1e30, -1e30, -3.0]], np.float32)
    for dtype, zero in (("uint8", 0), ("uint8", 100), ("int8", 0), ("int8", -7)):
        group = program([Input(TensorType((1, 10))), weight(1)], ("quantize", (0, 1), {"dtype": dtype, "zero": zero}))
        arrays = [numbers, np.ones(1, np.float32)]
        (result,) = execute(kernel_of(group, general.lower(group, target, Choices())), group, arrays, target)
        limits = SMALL[dtype]
        assert np.array_equal(result, np.clip(np.round(numbers.astype(np.float64)) + zero, *limits).astype(dtype))


@every_target
def test_the_greatest_of_integers(target: Target) -> None:
    attrs = {"k": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    group = program([integers(1, 40, 15, 13, layout=target.blocked_layout)], ("max_pool2d", (0,), attrs))
    for lowering in (pooling.lower, general.lower):
        check_exact(group, lowering, target, drawn(group))
