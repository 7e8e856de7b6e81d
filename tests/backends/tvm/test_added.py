"""The sum of two 1x1 convolutions in one kernel, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulation import processor
from hypothesis import given, settings, strategies
from kernel_programs import TARGETS, check, execute, program, reference, tensor, weight
from test_emitted_c import kernels_of
from test_integer import drawn, integers
from test_pairs import ROUNDING, half

from specc import targets
from specc.backends.tvm.choices import NOTHING, Choices, Configuration
from specc.backends.tvm.emitter import Template, kernel_of
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import added, select
from specc.ir.text import parse_graph
from specc.targets import Target

AMX = processor.able(targets.TARGETS["x86-64-v4-amx"])
PAIRS = targets.TARGETS["x86-64-v4-bf16"]
HALVES = pytest.mark.usefixtures("matrix_tiles")

Shape = tuple[int, ...]

SUMS: list[tuple[Shape, int, int, int]] = [
    ((1, 64, 14, 14), 64, 1, 48),
    ((1, 33, 7, 5), 20, 2, 37),
    ((1, 100, 28, 28), 130, 1, 64),
    ((2, 65, 12, 11), 128, 2, 40),
    ((2, 40, 6, 9), 96, 1, 70),
    ((2, 16, 5, 6), 48, 3, 200),
    ((1, 130, 1, 1), 40, 2, 20),
    ((1, 1, 9, 3), 2, 1, 3),
]
"""The first operand, the channels of the second one and its stride, the channels of the result."""


def operands(shape: Shape, channels: int, stride: int) -> tuple[Shape, Shape]:
    """Of the second operand, the last row and column stay unread where there is a stride."""
    n, _, rows, columns = shape
    return shape, (n, channels, rows * stride, columns * stride)


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    return added.lower(group, target, choices, select.template)


def summed(
    shape: Shape, channels: int, stride: int, out: int, layout: str, make: Callable[..., Any], *acts: str
) -> Group:
    """Two convolutions with biases, their sum, a residual, and activations."""
    x, y = operands(shape, channels, stride)
    frozen = {"frozen": True} if make is half else {}
    factor = weight if make is tensor else make
    weights = [factor(out, x[1], 1, 1, **frozen), factor(out, y[1], 1, 1, **frozen)]
    inputs = [make(*x, layout=layout), make(*y, layout=layout), *weights, weight(out), weight(out)]
    inputs.append(tensor(shape[0], out, *shape[2:], layout=layout))
    steps: list[tuple[str, list[int], dict[str, Any]]] = [
        ("conv2d", [1, 3, 5], {"stride": stride}),
        ("conv2d", [0, 2, 4], {}),
        ("add", [8, 7], {}),
        ("add", [9, 6], {}),
    ]
    return program(inputs, *steps, *((act, [10 + i], {}) for i, act in enumerate(acts)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "channels", "stride", "out"), SUMS)
def test_equals_torch(target: Target, shape: Shape, channels: int, stride: int, out: int) -> None:
    check(summed(shape, channels, stride, out, target.blocked_layout, tensor, "gelu"), lower, target)


@HALVES
@pytest.mark.parametrize("target", [AMX, PAIRS], ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "channels", "stride", "out"), SUMS)
def test_sums_of_bfloat16(target: Target, shape: Shape, channels: int, stride: int, out: int) -> None:
    with processor.running(target):
        check(summed(shape, channels, stride, out, target.blocked_layout, half, "relu"), lower, target, ROUNDING)


def integral(shape: Shape, channels: int, stride: int, out: int, layout: str, equal: bool = False) -> Group:
    """Two convolutions of integers, each of a scale of its own, their sum, and integers of that."""
    x, y = operands(shape, channels, stride)
    inputs = [integers(*x, layout=layout), integers(*y, layout=layout)]
    inputs += [integers(out, c, 1, 1, dtype="int8", frozen=True) for c in (x[1], y[1])]
    inputs += [integers(out, dtype="int32", frozen=True), weight(out, 1, 1), weight(out, 1, 1), weight(1)]
    return program(
        inputs,
        ("conv2d_integer", [0, 2, 4], {}),
        ("dequantize", [8, 5], {}),
        ("conv2d_integer", [1, 3], {"stride": stride}),
        ("dequantize", [10, 6], {}),
        ("add", [11, 9], {}),
        ("relu", [12], {}),
        ("quantize", [13, 7], {"zero": 3}),
    )


def check_integers(group: Group, target: Target, configuration: Configuration = NOTHING) -> None:
    """The integers are those of PyTorch, or where float32 rounds a number in the middle of two, next to them."""
    template = lower(group, target, Choices(configuration))
    assert template is not None
    for extreme in (False, True):
        arrays = drawn(group, extreme)
        arrays[7][...] = 1.0
        (result,) = execute(kernel_of(group, template), group, arrays, target)
        (expected,) = reference(group, arrays)
        assert result.dtype == expected.dtype and np.abs(result.astype(int) - expected).max() <= 1
        assert (result != expected).mean() < 1e-3 and len(np.unique(result)) > 1


@HALVES
@pytest.mark.parametrize("target", [AMX, targets.TARGETS["x86-64-v4"]], ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "channels", "stride", "out"), SUMS)
def test_sums_of_integers(target: Target, shape: Shape, channels: int, stride: int, out: int) -> None:
    check_integers(integral(shape, channels, stride, out, target.blocked_layout), target)


def test_a_step_behind_one_of_the_terms() -> None:
    """Sums of real numbers are one only where nothing is done with either before."""
    layout = TARGETS[-1].blocked_layout
    inputs = [tensor(1, 20, 5, 7, layout=layout), tensor(1, 33, 5, 7, layout=layout)]
    inputs += [weight(40, 20, 1, 1), weight(40, 33, 1, 1)]
    for first, second in (("relu", ""), ("", "relu"), ("silu", "relu")):
        steps = list[tuple[str, list[int], dict[str, Any]]]()
        terms = []
        for number, act in enumerate((first, second)):
            steps.append(("conv2d", [number, 2 + number], {}))
            steps += [(act, [3 + len(steps)], {})] if act else []
            terms.append(3 + len(steps))
        check(program(inputs, *steps, ("add", terms, {})), lower, TARGETS[-1])


def test_one_behind_the_other_has_the_same_result() -> None:
    group = summed((1, 40, 6, 9), 20, 2, 37, TARGETS[-1].blocked_layout, tensor, "relu")
    check(group, lower, TARGETS[-1], configuration={"fused": False})
    together, apart = (select.lower(group, TARGETS[-1], {"fused": fused}) for fused in (True, False))
    assert together.configuration["fused"] is True and apart.configuration["fused"] is False


@HALVES
@pytest.mark.parametrize("configuration", [{"fused": False}, {"both.near": False}, {"both.unit": "1x2"}], ids=str)
def test_other_choices_have_the_same_integers(configuration: Configuration) -> None:
    check_integers(integral((1, 70, 6, 9), 64, 1, 64, AMX.blocked_layout), AMX, configuration)


@HALVES
@settings(max_examples=10, deadline=None)
@given(data=strategies.data())
def test_any_sum(data: strategies.DataObject) -> None:
    n, stride = data.draw(strategies.integers(1, 2)), data.draw(strategies.integers(1, 3))
    shape = (n, *(data.draw(strategies.integers(1, most)) for most in (150, 9, 9)))
    channels, out = data.draw(strategies.integers(1, 100)), data.draw(strategies.integers(2, 70))
    kind = data.draw(strategies.sampled_from(("float32", "bfloat16", "integers")))
    if kind == "integers":
        return check_integers(integral(shape, channels, stride, out, AMX.blocked_layout), AMX)
    make, tolerance = (tensor, 2e-6) if kind == "float32" else (half, ROUNDING)
    check(summed(shape, channels, stride, out, AMX.blocked_layout, make, "silu"), lower, AMX, tolerance)


def test_a_network_runs_it_on_this_machine_and_in_c(tmp_path: Path) -> None:
    graph = parse_graph(
        """
        graph Net
        input x: float32[1, 20, 8, 8]
        param w: float32[33, 20, 1, 1] kaiming
        param v: float32[33, 40, 1, 1] kaiming
        param u: float32[40, 20, 3, 3] kaiming
        param b: float32[33] zeros
        %0: float32[1, 40, 4, 4] = conv2d(x, @u) {stride=(2, 2); padding=(1, 1, 1, 1)}
        %1: float32[1, 33, 4, 4] = conv2d(%0, @v, @b)
        %2: float32[1, 33, 4, 4] = conv2d(x, @w) {stride=(2, 2)}
        %3: float32[1, 33, 4, 4] = add(%1, %2)
        %4: float32[1, 33, 4, 4] = relu(%3)
        return %4
        """
    )
    for kernels in kernels_of(graph, 1 << 20, tmp_path):
        (kernel,) = (each for each in kernels if each["template"] == "added")
        assert kernel["operators"] == "conv2d_conv2d_add_relu" and kernel["configuration"]["fused"]
        assert kernel["macs"] == 4 * 4 * 60 * 33
