"""Linear layers against PyTorch: any number of rows, outputs that no vector divides, epilogues."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_programs import NATIVE, TARGETS, check, program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Input
from specc.backends.tvm.kernels import linear
from specc.targets import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("lead", "inputs", "outputs"),
    [((1,), 64, 1000), ((), 5, 3), ((2, 7), 48, 64), ((197,), 33, 40), ((1, 3, 11), 16, 16), ((29,), 8, 200)],
)
def test_equals_torch(target: Target, lead: tuple[int, ...], inputs: int, outputs: int) -> None:
    operands = [tensor(*lead, inputs), weight(outputs, inputs), weight(outputs)]
    check(program(operands, ("linear", (0, 1, 2), {}), ("gelu", (3,), {})), linear.lower, target)


@pytest.mark.parametrize("operand", [tensor(2, 9, 20), weight(20), tensor(20), tensor(1, 1, 20), tensor()])
def test_epilogue_operands(operand: Input) -> None:
    operands = [tensor(2, 9, 12), weight(20, 12), operand]
    check(program(operands, ("linear", (0, 1), {}), ("add", (3, 2), {})), linear.lower)


@pytest.mark.parametrize("outputs", [32, 20])
def test_heavy_epilogue_of_several_operands(outputs: int) -> None:
    """Whole vectors go straight to the result, of others the lanes that there are."""
    operands = [tensor(2, 19, 12), weight(outputs, 12), tensor(2, 19, outputs)]
    check(program(operands, ("linear", (0, 1), {}), ("gelu", (3,), {}), ("add", (4, 2), {})), linear.lower)


@pytest.mark.parametrize("lead", [(5, 1), (1, 5, 1), (1, 1), (2, 3)])
def test_leading_dimensions_of_one(lead: tuple[int, ...]) -> None:
    operands = [tensor(*lead, 12), weight(20, 12), tensor(*lead, 20)]
    check(program(operands, ("linear", (0, 1), {}), ("add", (3, 2), {})), linear.lower)


def test_operand_of_rows_is_refused() -> None:
    operands = [tensor(2, 9, 12), weight(20, 12), tensor(9, 1)]
    group = program(operands, ("linear", (0, 1), {}), ("add", (3, 2), {}))
    assert linear.lower(group, NATIVE, Choices()) is None
    check(group)


@pytest.mark.parametrize(("kilobytes", "inputs", "rows"), [(32, 1536, 9), (32, 2048, 6), (48, 1536, 9), (48, 2048, 9)])
def test_rows_that_share_sets_of_the_first_level_cache(kilobytes: int, inputs: int, rows: int) -> None:
    """Rows of 2048 inputs are 128 lines apart: all of them share one of 64 sets, of 8 or of 12 lines; rows of 1536, 96
    lines apart, share two."""
    target = replace(targets.TARGETS["x86-64-v4"], l1_bytes=kilobytes << 10)
    choices = Choices()
    group = program([tensor(197, inputs), weight(384, inputs)], ("linear", (0, 1), {}))
    assert linear.lower(group, target, choices)
    tile = next(str(choice.taken) for choice in choices.space if choice.name == "tile")
    assert int(tile.partition("x")[0]) == rows
