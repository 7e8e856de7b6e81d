"""Dense convolutions against PyTorch: borders, strides, channels that no block divides, epilogues, both loop orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kernel_programs import NATIVE, TARGETS, check, program, tensor, weight

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import convolution, general
from specc.targets import Target


def conv(shape: tuple[int, ...], out: int, k: tuple[int, int], layout: str, bias: bool = True, **attrs: Any) -> Group:
    inputs = [tensor(*shape, layout=layout), weight(out, shape[1], *k)] + [weight(out)] * bias
    return program(inputs, ("conv2d", range(len(inputs)), attrs))


BLOCKED = NATIVE.blocked_layout
CASES: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 32, 14, 14), 48, (1, 1), {}),
    ((3, 16, 1, 31), 7, (1, 1), {}),
    ((1, 20, 7, 7), 40, (1, 1), {"stride": 2}),
    ((1, 24, 13, 9), 33, (3, 3), {"padding": 1}),
    ((2, 20, 9, 13), 40, (3, 3), {"padding": 2, "dilation": 2, "stride": 2}),
    ((1, 16, 6, 30), 16, (5, 2), {"padding": [0, 1, 3, 2], "stride": [2, 1]}),
    ((1, 16, 2, 2), 16, (7, 7), {"padding": 3}),
    ((1, 17, 4, 5), 1, (4, 5), {}),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "out", "k", "attrs"), CASES)
def test_equals_torch(
    target: Target, shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: dict[str, Any]
) -> None:
    check(conv(shape, out, k, target.blocked_layout, **attrs), convolution.lower, target)


@pytest.mark.parametrize("l2_bytes", [1 << 14, 1 << 20])
@pytest.mark.parametrize(("channels", "out"), [(64, 256), (3072, 768)])
def test_threads_share_a_convolution_of_one_row(channels: int, out: int, l2_bytes: int) -> None:
    target = replace(NATIVE, l2_bytes=l2_bytes)
    group = conv((1, channels, 7, 7), out, (1, 1), BLOCKED)  # 49 pixels are one row
    template = convolution.lower(group, target, Choices())
    assert template is not None
    assert max(kernel_of(group, template).parallel) >= 8


@pytest.mark.parametrize(("shape", "out", "k", "attrs"), CASES[3:6])
def test_output_blocks_shared_out(shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: dict[str, Any]) -> None:
    tiny = replace(NATIVE, l2_bytes=4096)  # the weights are larger: threads share out output blocks
    check(conv(shape, out, k, NATIVE.blocked_layout, bias=False, **attrs), convolution.lower, tiny)


@pytest.mark.parametrize("extents", [(14, 1), (1, 14), (1, 1)])
def test_images_of_one_row_or_column(extents: tuple[int, int]) -> None:
    inputs = [tensor(1, 16, *extents, layout=BLOCKED), weight(20, 16, 1, 1), tensor(1, 20, *extents, layout=BLOCKED)]
    check(program(inputs, ("conv2d", (0, 1), {}), ("add", (3, 2), {})), convolution.lower)


@pytest.mark.parametrize("rows", [7, 49, 50, 51])
def test_strips_that_do_not_divide_the_rows(rows: int) -> None:
    # 8 strips of 49 rows: seven of seven rows, and one of none.
    check(conv((2, 16, rows, 5), 16, (3, 3), NATIVE.blocked_layout, padding=1), convolution.lower)


@pytest.mark.parametrize("goal", ["blocked", ""])
def test_first_layer_reads_plain(goal: str) -> None:
    layout = NATIVE.blocked_layout if goal else ""
    inputs = [tensor(1, 3, 17, 19), weight(20, 3, 3, 3), weight(20)]
    check(
        program(
            inputs,
            ("conv2d", (0, 1, 2), {"stride": 2, "padding": 1}),
            ("gelu", (3,), {}),
            ("convert_layout", (4,), {"layout": layout}),
        ),
        convolution.lower,
    )


def test_writes_plain_result() -> None:
    inputs = [tensor(2, 32, 5, 5, layout=NATIVE.blocked_layout), weight(20, 32, 1, 1)]
    check(program(inputs, ("conv2d", (0, 1), {}), ("convert_layout", (2,), {"layout": ""})), convolution.lower)


def epilogue(operand: Input, op: str, activation: str) -> Group:
    layout = NATIVE.blocked_layout
    inputs = [tensor(2, 16, 6, 7, layout=layout), weight(20, 16, 1, 1), operand]
    return program(inputs, ("conv2d", (0, 1), {}), (activation, (3,), {}), (op, (4, 2), {}))


OPERANDS = {
    "residual": tensor(2, 20, 6, 7, layout=BLOCKED),
    "gate": tensor(2, 20, 1, 1, layout=BLOCKED),
    "channel": weight(20, 1, 1),
    "position": weight(6, 1),
    "scalar": tensor(),
    "frozen map": Input(tensor(1, 20, 6, 7, layout=BLOCKED).type, frozen=True),
}


@pytest.mark.parametrize("operand", OPERANDS.values(), ids=OPERANDS)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_epilogue_operands(operand: Input, activation: str) -> None:
    check(epilogue(operand, "mul", activation), convolution.lower)


def test_epilogue_with_constant_and_value_used_twice() -> None:
    inputs = [tensor(1, 16, 5, 5, layout=BLOCKED), weight(16, 16, 3, 3)]
    check(
        program(
            inputs,
            ("constant", (), {"value": 0.5}),
            ("conv2d", (0, 1), {"padding": 1}),
            ("mul", (3, 2), {}),
            ("sigmoid", (4,), {}),
            ("mul", (4, 5), {}),
        ),
        convolution.lower,
    )


def test_division_keeps_lanes_beyond_the_channels_finite() -> None:
    inputs = [tensor(1, 16, 4, 4, layout=BLOCKED), weight(20, 16, 1, 1), weight(20, 1, 1)]
    check(program(inputs, ("conv2d", (0, 1), {}), ("div", (3, 2), {})), convolution.lower)


def test_other_groups_are_refused() -> None:
    grouped = program(
        [tensor(1, 16, 5, 5, layout=BLOCKED), weight(16, 8, 3, 3)], ("conv2d", (0, 1), {"groups": 2, "padding": 1})
    )
    unfrozen = program([tensor(1, 16, 5, 5, layout=BLOCKED), tensor(16, 16, 3, 3)], ("conv2d", (0, 1), {}))
    for group in (grouped, unfrozen):
        assert convolution.lower(group, NATIVE, Choices()) is None
        check(group, general.lower)
