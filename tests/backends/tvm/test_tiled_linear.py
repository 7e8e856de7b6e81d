"""Linear layers in tiles: integers equal PyTorch in every bit, bfloat16 as near as float32 sums are. They run where the
processor has no tiles, too (`tests/emulation/processor`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_programs import check, execute, program, reference, weight

from specc import targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import tiled_linear
from specc.ir.dtypes import SMALL
from specc.ir.types import TensorType
from specc.targets import Target

TILES = {"tiles": True}
SHAPES = [(1, 64, 40), (5, 100, 10), (16, 384, 33), (17, 96, 1000), (49, 64, 16), (197, 100, 72), (197, 384, 64)]


def of(dtype: str, *shape: int, frozen: bool = False) -> Input:
    return Input(TensorType(shape, dtype), frozen)


def integers(lead: tuple[int, ...], inputs: int, out: int) -> Group:
    """A layer of integers whose results are uint8, with a bias and a ReLU."""
    return program(
        [
            of("uint8", *lead, inputs),
            of("int8", out, inputs, frozen=True),
            of("int32", out, frozen=True),
            weight(out),
            weight(1),
        ],
        ("linear_integer", (0, 1, 2), {}),
        ("dequantize", (5, 3), {}),
        ("relu", (6,), {}),
        ("quantize", (7, 4), {"zero": 5}),
    )


def drawn(group: Group) -> list[Any]:
    """Integers of all their range, and scales that spread the sums over those of the result."""
    rng = np.random.default_rng(0)
    arrays = []
    for operand in group.inputs[:3]:
        least, greatest = SMALL.get(operand.type.dtype, (-100_000, 100_000))
        numbers = rng.integers(least, greatest + 1, operand.type.concrete)
        arrays.append(numbers.astype(operand.type.dtype))
    scales = (rng.random(group.inputs[3].type.concrete) * 1e-3 + 1e-4).astype(np.float32)
    return [*arrays, scales, np.array([1.3], np.float32)]


def exact(group: Group, target: Target, configuration: dict[str, Any]) -> None:
    template = tiled_linear.lower(group, target, Choices(configuration))
    assert template is not None, "the template does not take the group"
    arrays = drawn(group)
    (result,) = execute(kernel_of(group, template), group, arrays, target)
    (expected,) = reference(group, arrays)
    assert result.dtype == expected.dtype and np.array_equal(result, expected)
    assert len(np.unique(result)) > 10


@pytest.mark.parametrize(("rows", "inputs", "out"), SHAPES)
def test_integers(rows: int, inputs: int, out: int, matrix_tiles: Target) -> None:
    exact(integers((rows,), inputs, out), matrix_tiles, TILES)


@pytest.mark.parametrize(("rows", "inputs", "out"), SHAPES)
def test_bfloat16(rows: int, inputs: int, out: int, matrix_tiles: Target) -> None:
    """With GELU and a sum, whose operand the result may be written over."""
    group = program(
        [of("bfloat16", rows, inputs), of("bfloat16", out, inputs, frozen=True), weight(out), of("float32", rows, out)],
        ("linear", (0, 1, 2), {}),
        ("gelu", (4,), {}),
        ("add", (5, 3), {}),
    )
    check(group, tiled_linear.lower, matrix_tiles, configuration=TILES)


@pytest.mark.parametrize("shape", tiled_linear.SHAPES)
@pytest.mark.parametrize("rows", [5, 99])
def test_every_shape_of_tiles(shape: str, rows: int, matrix_tiles: Target) -> None:
    """Several leading dimensions, and no bias for real numbers."""
    configuration = {"tiles": True, "shape": shape}
    exact(integers((1, rows, 1), 160, 121), matrix_tiles, configuration)
    inputs = [of("bfloat16", 1, rows, 1, 80), of("bfloat16", 121, 80, frozen=True)]
    group = program(inputs, ("linear", (0, 1), {}), ("cast", (2,), {"dtype": "bfloat16"}))
    check(group, tiled_linear.lower, matrix_tiles, 2.0**-7, configuration=configuration)


@pytest.mark.parametrize(("inputs", "dtype"), [(63, "uint8"), (31, "bfloat16")])
def test_few_inputs_are_left_to_others(inputs: int, dtype: str, matrix_tiles: Target) -> None:
    few = [of(dtype, 40, inputs), of({"uint8": "int8"}.get(dtype, dtype), 20, inputs, frozen=True)]
    op = "linear_integer" if dtype == "uint8" else "linear"
    assert tiled_linear.lower(program(few, (op, (0, 1), {})), matrix_tiles, Choices(TILES)) is None


def test_other_processors_have_no_tiles() -> None:
    group = integers((40,), 64, 20)
    assert tiled_linear.lower(group, targets.TARGETS["x86-64-v4-vnni"], Choices(TILES)) is None
