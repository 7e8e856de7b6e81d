"""Squeeze-excite as one kernel against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_programs import NATIVE, TARGETS, check, draw, execute, program, reference, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.kernels import general, squeeze
from specc.targets import Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("shape", "middle", "gate"),
    [((1, 64, 12, 12), 16, "sigmoid"), ((2, 40, 7, 5), 10, "hard_sigmoid"), ((1, 512, 3, 3), 520, "sigmoid")],
)
def test_equals_torch(target: Target, shape: tuple[int, ...], middle: int, gate: str) -> None:
    channels = shape[1]
    inputs = [tensor(*shape, layout=target.blocked_layout), weight(middle, channels, 1, 1), weight(middle)]
    inputs += [weight(channels, middle, 1, 1), weight(channels)]
    group = program(
        inputs,
        ("global_avg_pool", (0,), {"keep": True}),
        ("conv2d", (5, 1, 2), {}),
        ("silu", (6,), {}),
        ("conv2d", (7, 3, 4), {}),
        (gate, (8,), {}),
    )
    check(group, squeeze.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("shape", [(1, 960, 7, 7), (2, 24, 5, 3), (1, 16, 11, 1)])
def test_a_mean_alone(target: Target, shape: tuple[int, ...]) -> None:
    group = program([tensor(*shape, layout=target.blocked_layout)], ("mean", (0,), {"axes": (2, 3), "keep": True}))
    check(group, squeeze.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_mean_alone_becomes_integers(target: Target) -> None:
    group = program(
        [tensor(2, 40, 7, 7, layout=target.blocked_layout), weight(1)],
        ("mean", (0,), {"axes": (2, 3), "keep": True}),
        ("quantize", (2, 1), {"zero": 128}),
    )
    arrays = draw(group)
    arrays[0], arrays[1] = np.round(arrays[0] * 8) / 8, np.array([49 * 8 / 3], np.float32)
    template = squeeze.lower(group, target, Choices())
    assert template is not None
    (result,), (expected,) = execute(kernel_of(group, template), group, arrays, target), reference(group, arrays)
    assert result.dtype == np.uint8 and np.array_equal(result, expected) and len(np.unique(result)) > 20


def test_a_product_that_skips_back_is_refused() -> None:
    inputs = [tensor(1, 16, 3, 3, layout=NATIVE.blocked_layout), weight(16, 16, 1, 1)]
    group = program(
        inputs,
        ("mean", (0,), {"axes": (2, 3), "keep": True}),
        ("conv2d", (2, 1), {}),
        ("add", (2, 3), {}),
        ("conv2d", (4, 1), {}),
    )
    assert squeeze.lower(group, NATIVE, Choices()) is None
    check(group, general.lower)
