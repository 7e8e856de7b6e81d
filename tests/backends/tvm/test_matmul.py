"""Products of two tensors that are both computed, against PyTorch."""

from __future__ import annotations

import pytest
from kernel_programs import TARGETS, check, program, tensor

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import matmul
from specc.targets import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    "left, right",
    [
        ((40, 24), (24, 49)),  # the last vector of a row overlaps, and the last tile of rows
        ((2, 3, 5, 7), (2, 3, 7, 64)),
        ((3, 1, 9, 6), (4, 6, 3)),  # matrices are repeated; a row is no whole vector
        ((1, 30), (30, 130)),
        ((2, 17, 1), (1, 1, 33)),
    ],
)
def test_equals_torch(target: Target, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = tensor(*left), tensor(*right)
    check(program([a, b], ("matmul", (0, 1), {})), matmul.lower, target)
    scale, columns = tensor(left[-2], 1), tensor(right[-1])
    steps = [("matmul", (0, 1), {}), ("mul", (4, 2), {}), ("add", (5, 3), {}), ("silu", (6,), {})]
    check(program([a, b, scale, columns], *steps), matmul.lower, target)


def test_what_is_added_may_lie_where_the_result_does() -> None:
    """Where every element is computed once; not where tiles overlap."""
    target = TARGETS[-1]
    for rows, columns, once in ((8, 64, True), (8, 49, False)):
        inputs = [tensor(rows, 6), tensor(6, columns), tensor(rows, columns)]
        group = program(inputs, ("matmul", (0, 1), {}), ("add", (3, 2), {}))
        template = matmul.lower(group, target, Choices())
        assert template is not None and template.once == once
        check(group, matmul.lower, target)


def test_other_groups_are_refused() -> None:
    target = TARGETS[-1]
    group = program([tensor(3, 4), tensor(4, 5), tensor(2, 3, 5)], ("matmul", (0, 1), {}), ("add", (3, 2), {}))
    assert matmul.lower(group, target, Choices()) is None  # the sum has more elements than the product
    assert matmul.lower(program([tensor(3, 4)], ("relu", (0,), {})), target, Choices()) is None
