"""The general template takes every operator, in every layout that the operator takes, and groups of several."""

from __future__ import annotations

import random

import pytest
from kernel_programs import NATIVE, check, program, tensor, weight

from specc import ops
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Input
from specc.backends.tvm.kernels import general
from specc.ir.types import TensorType

COMPUTED = [name for name, record in ops.OPERATORS.items() if record.scalar or (record.compute and record.operands)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layout", ["", NATIVE.blocked_layout])
@pytest.mark.parametrize("name", COMPUTED)
def test_every_operator(name: str, layout: str, seed: int) -> None:
    record = ops.get(name)
    rng = random.Random(f"{name} {seed}")
    types, given = record.example(rng)
    attrs = ops.complete(record, given)
    first_weight = len(record.call_operands) if record.weights else len(types)
    if layout:
        types = [
            TensorType(t.shape, t.dtype, layout) if t.rank == 4 and i < first_weight else t for i, t in enumerate(types)
        ]
    try:
        ops.infer(record, types, attrs)
    except ops.Illegal:
        return  # the operator does not take this layout
    inputs = [Input(t, frozen=i >= first_weight) for i, t in enumerate(types)]
    check(
        program(inputs, (name, range(len(inputs)), attrs)),
        general.lower,
        positive=name == "batch_norm",
    )


def test_pointwise_steps_before_and_between_anchors() -> None:
    inputs = [tensor(2, 5, 6), weight(6, 6)]
    check(
        program(
            inputs,
            ("silu", (0,), {}),
            ("softmax", (2,), {"axis": 1}),
            ("exp", (3,), {}),
            ("matmul", (4, 1), {}),
            ("add", (5, 0), {}),
        ),
        general.lower,
    )


def test_padding_of_a_computed_operand_reads_nothing_outside() -> None:
    inputs = [tensor(1, 3, 5, 5), weight(4, 3, 3, 3)]
    check(program(inputs, ("gelu", (0,), {}), ("conv2d", (2, 1), {"padding": 1})), general.lower)


@pytest.mark.parametrize("shape", [(3,), (16,), (37,), (2, 3, 50)])
def test_long_and_short_last_dimensions(shape: tuple[int, ...]) -> None:
    check(program([tensor(*shape), tensor(*shape[-1:])], ("mul", (0, 1), {}), ("tanh", (2,), {})), general.lower)


def test_several_results() -> None:
    """Both results of one step, a value in the middle that others read, and what is computed from all of them."""
    steps = (
        ("gelu", (0,), {}),
        ("var_mean", (1,), {"axes": (1,), "keep": True}),
        ("sub", (1, 3), {}),
        ("mul", (4, 2), {}),
    )
    check(program([tensor(3, 20)], *steps, results=(1, 3, 5)), general.lower)
    check(program([tensor(3, 20)], *steps, results=(2, 5)))


def test_moves_in_a_row_store_nothing() -> None:
    """A pixel shuffle whose border is cut off, and a permute of blocks: elements are read at their places."""
    shuffled = program(
        [tensor(2, 12, 5, 7)],
        ("reshape", (0,), {"shape": (2, 3, 2, 2, 5, 7)}),
        ("permute", (1,), {"order": (0, 1, 4, 2, 5, 3)}),
        ("reshape", (2,), {"shape": (2, 3, 10, 14)}),
        ("slice", (3,), {"axis": 2, "start": 1, "stop": 9, "step": 1}),
        ("slice", (4,), {"axis": 3, "start": 1, "stop": 13, "step": 1}),
        ("relu", (5,), {}),
    )
    permuted = program(
        [tensor(2, 20, 5, 7, layout=NATIVE.blocked_layout)],
        ("permute", (0,), {"order": (0, 2, 3, 1)}),
        ("slice", (1,), {"axis": 3, "start": 3, "stop": 20, "step": 2}),
    )
    for group in (shuffled, permuted):
        check(group, general.lower)
        assert "alloc_buffer" not in str(kernel_of(group, general.lower(group, NATIVE, Choices())).function)


def test_mish_far_from_zero() -> None:
    """Cubes of normal numbers, up to 50 and more on either side: the exponential is limited, and nothing overflows."""
    cubes = ("mul", (0, 0), {}), ("mul", (1, 0), {}), ("mish", (2,), {})
    check(program([tensor(40, 500)], *cubes), general.lower)
