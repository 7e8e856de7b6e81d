"""Normalization along rows against PyTorch."""

from __future__ import annotations

import pytest
from kernel_programs import TARGETS, check, program, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import normalization
from specc.targets import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("shape", [(1, 197, 48), (2, 3, 5, 37), (6, 7), (9,), (1, 3, 1), (130, 100)])
def test_equals_torch(target: Target, shape: tuple[int, ...]) -> None:
    x, scales = tensor(*shape), weight(shape[-1])
    check(program([x, scales, scales], ("layer_norm", (0, 1, 2), {})), normalization.lower, target)
    check(program([x, scales], ("rms_norm", (0, 1), {"eps": 0.25}), ("silu", (2,), {})), normalization.lower, target)
    check(program([x], ("softmax", (0,), {"axis": -1})), normalization.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("shape", [(1, 96, 7, 9), (2, 20, 3, 5), (1, 5, 1, 2)])
def test_blocks_of_channels(target: Target, shape: tuple[int, ...]) -> None:
    x, scales = tensor(*shape, layout=target.blocked_layout), weight(shape[1])
    group = program([x, scales, scales, x], ("layer_norm", (0, 1, 2), {"axis": 1}), ("add", (4, 3), {}))
    check(group, normalization.lower, target)
    check(program([x, scales], ("rms_norm", (0, 1), {"axis": -3})), normalization.lower, target)
    check(program([x], ("softmax", (0,), {"axis": 1})), normalization.lower, target)


def test_an_epilogue_with_operands_of_other_shapes() -> None:
    for target in TARGETS:
        inputs = [tensor(2, 6, 40), tensor(6, 1), tensor(40)]
        check(
            program(inputs, ("layer_norm", (0,), {}), ("mul", (3, 1), {}), ("add", (4, 2), {})),
            normalization.lower,
            target,
        )


def test_other_groups_are_refused() -> None:
    target = TARGETS[-1]
    for shape, axis in (((1, 4, 6, 5), 1), ((3, 4), 0)):
        group = program([tensor(*shape)], ("layer_norm", (0,), {"axis": axis}))
        assert normalization.lower(group, target, Choices()) is None
    assert normalization.lower(program([tensor(3, 4)], ("relu", (0,), {})), target, Choices()) is None
