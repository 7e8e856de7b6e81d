"""Pooling over windows against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_programs import TARGETS, check, program, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import pooling
from specc.targets import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    ("shape", "attrs"),
    [
        ((1, 32, 16, 16), {"k": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}),
        ((2, 20, 9, 30), {"k": (2, 3), "stride": (1, 2), "padding": (0, 2, 1, 0)}),
        ((1, 17, 7, 5), {"k": (7, 4), "stride": (3, 1), "padding": (3, 0, 6, 3)}),
        ((3, 16, 3, 3), {"k": (1, 1), "stride": (2, 2), "padding": (0, 0, 0, 0)}),
    ],
)
def test_equals_torch(target: Target, op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    check(program([tensor(*shape, layout=target.blocked_layout)], (op, (0,), attrs)), pooling.lower, target)


def test_a_mean_over_what_is_inside() -> None:
    attrs = {"k": (3, 5), "stride": (2, 1), "padding": (2, 1, 1, 4), "count_padding": False}
    for target in TARGETS:
        operands = [tensor(1, 40, 6, 11, layout=target.blocked_layout), weight(1, 40, 1, 1)]
        check(program(operands, ("avg_pool2d", (0,), attrs), ("mul", (2, 1), {})), pooling.lower, target)


def test_a_residual_beside_it() -> None:
    attrs = {"k": (3, 3), "stride": (1, 1), "padding": (1, 1, 1, 1)}
    for target in TARGETS:
        operands = [tensor(1, 24, 8, 8, layout=target.blocked_layout) for _ in range(2)]
        check(program(operands, ("avg_pool2d", (0,), attrs), ("sub", (2, 1), {})), pooling.lower, target)


def test_other_groups_are_refused() -> None:
    target, attrs = TARGETS[-1], {"k": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    assert pooling.lower(program([tensor(1, 16, 8, 8)], ("max_pool2d", (0,), attrs)), target, Choices()) is None
    assert pooling.lower(program([tensor(1, 16, 8, 8)], ("relu", (0,), {})), target, Choices()) is None
