"""1x1 convolutions of few plain channels against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_programs import NATIVE, WIDTHS, check, program, tensor, weight

from specc.backends.tvm.choices import Choices, Configuration
from specc.backends.tvm.kernels import mixing
from specc.targets import Target


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((1, 4, 16, 28), 8), ((2, 7, 9, 13), 3), ((1, 1, 5, 7), 12), ((3, 5, 1, 17), 1), ((1, 6, 31, 3), 25)],
)
def test_equals_torch(target: Target, shape: tuple[int, ...], outputs: int) -> None:
    inputs = [tensor(*shape), weight(outputs, shape[1], 1, 1), weight(outputs)]
    check(program(inputs, ("conv2d", (0, 1, 2), {}), ("hard_swish", (3,), {})), mixing.lower, target)


@pytest.mark.parametrize("target", WIDTHS, ids=lambda t: t.name)
def test_residuals_and_scales(target: Target) -> None:
    inputs = [tensor(2, 5, 9, 11), weight(7, 5, 1, 1), tensor(2, 7, 9, 11), weight(7, 1, 1)]
    steps = ("conv2d", (0, 1), {}), ("mul", (4, 3), {}), ("add", (5, 2), {}), ("gelu", (6,), {})
    check(program(inputs, *steps), mixing.lower, target)


@pytest.mark.parametrize("configuration", [{"strips": 2}, {"outputs": 1, "vectors": 5}, {"outputs": 4, "vectors": 1}])
def test_other_tiles(configuration: Configuration) -> None:
    group = program([tensor(1, 3, 10, 21), weight(9, 3, 1, 1)], ("conv2d", (0, 1), {}))
    choices = Choices(configuration)
    assert mixing.lower(group, NATIVE, choices) is not None
    assert {choice.name: choice.taken for choice in choices.space}.items() >= configuration.items()
    check(group, mixing.lower, configuration=configuration)


@pytest.mark.parametrize(
    ("inputs", "attrs"),
    [
        ([tensor(1, 16, 8, 8), weight(4, 16, 1, 1)], {}),
        ([tensor(1, 4, 8, 8), weight(4, 4, 3, 3)], {"padding": 1}),
        ([tensor(1, 4, 8, 8), weight(4, 4, 1, 1)], {"stride": 2}),
        ([tensor(1, 4, 8, 8, layout=NATIVE.blocked_layout), weight(4, 4, 1, 1)], {}),
        ([tensor(1, 4, 1, 3), weight(4, 4, 1, 1)], {}),
    ],
    ids=["many channels", "a window", "a stride", "blocks", "few pixels"],
)
def test_others_are_refused(inputs: list[Any], attrs: dict[str, Any]) -> None:
    assert mixing.lower(program(inputs, ("conv2d", (0, 1), attrs)), NATIVE, Choices()) is None
