"""Convolutions by minimal filtering against PyTorch: borders, tiles that do not divide the image, pieces, epilogues."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kernel_programs import NATIVE, TARGETS, check, program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Configuration
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import convolution, select, winograd, winograd_plan
from specc.backends.tvm.packing import Packing
from specc.targets import Target


def conv(shape: tuple[int, ...], out: int, k: tuple[int, int], target: Target = NATIVE, **attrs: Any) -> Group:
    inputs = [tensor(*shape, layout=target.blocked_layout), weight(out, shape[1], *k), weight(out)]
    return program(inputs, ("conv2d", range(3), attrs))


CASES: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any], str]] = [
    ((1, 32, 8, 8), 32, (3, 3), {"padding": 1}, "4x4"),
    ((2, 20, 9, 13), 40, (3, 3), {"padding": 1}, "3x4"),
    ((1, 16, 5, 6), 16, (3, 3), {}, "2x2"),
    ((1, 17, 7, 10), 33, (3, 3), {"padding": [2, 0, 1, 2]}, "4x2"),
    ((1, 16, 9, 9), 48, (5, 5), {"padding": 2}, "2x2"),
    ((1, 16, 6, 21), 16, (1, 7), {"padding": [0, 3]}, "1x2"),
    ((1, 16, 6, 21), 16, (3, 1), {"padding": [1, 0]}, "4x1"),
    ((1, 16, 3, 3), 16, (3, 3), {"padding": 1}, "4x4"),
    ((1, 32, 12, 12), 32, (3, 3), {"padding": 1, "stride": 2}, "2x2"),
    ((2, 20, 9, 14), 40, (3, 3), {"padding": 1, "stride": 2}, "2x4"),
    ((1, 17, 10, 13), 16, (5, 3), {"padding": [2, 0, 1, 2], "stride": [2, 1]}, "2x2"),
    ((1, 16, 11, 9), 16, (3, 3), {"stride": [1, 3]}, "4x1"),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("shape", "out", "k", "attrs", "m"), CASES)
def test_equals_torch(
    target: Target, shape: tuple[int, ...], out: int, k: tuple[int, int], attrs: dict[str, Any], m: str
) -> None:
    group = conv(shape, out, k, target, **attrs)
    check(group, winograd.lower, target, configuration={"winograd": m})


def pieces(group: Group, target: Target, m: str) -> list[str]:
    """Every way to cut the work that the template knows."""
    choices = Choices({"winograd": m})
    assert winograd.lower(group, target, choices) is not None
    return [str(value) for value in choices.space[1].values]


def test_pieces_that_do_not_divide_tiles_and_output_blocks() -> None:
    group = conv((2, 16, 33, 29), 80, (3, 3), padding=1)
    cuts = pieces(group, NATIVE, "4x4")
    own, shared = ([cut for cut in cuts if cut.endswith(" own") == own] for own in (True, False))
    assert own and shared
    for cut in (next(cut for cut in own if 144 % int(cut.split()[2])), own[-1], *shared):
        check(group, winograd.lower, configuration={"winograd": "4x4", "pieces": cut})


def test_pieces_that_all_threads_work_on() -> None:
    small = replace(NATIVE, l2_bytes=20_000)  # the pixels of all tiles are more
    group = conv((1, 32, 16, 18), 32, (3, 3), padding=1)
    cut = next(cut for cut in pieces(group, small, "4x4") if not cut.endswith("own"))
    assert int(cut.split()[2]) < 20
    check(group, winograd.lower, small, configuration={"winograd": "4x4", "pieces": cut})


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("goal", ["blocked", ""])
def test_epilogue(activation: str, goal: str) -> None:
    inputs = [
        tensor(1, 32, 10, 11, layout=NATIVE.blocked_layout),
        weight(40, 32, 3, 3),
        tensor(1, 40, 10, 11, layout=NATIVE.blocked_layout),
        weight(40, 1, 1),
    ]
    steps: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("conv2d", (0, 1), {"padding": 1}),
        ("add", (4, 2), {}),
        ("mul", (5, 3), {}),
        (activation, (6,), {}),
    ]
    if not goal:
        steps.append(("convert_layout", (7,), {"layout": ""}))
    configuration: Configuration = {"winograd": "4x4"}
    check(program(inputs, *steps), winograd.lower, configuration=configuration)


def test_the_cost_model_takes_it_where_it_pays() -> None:
    def taken(group: Group, target: Target = NATIVE) -> Any:
        return {choice.name: choice.taken for choice in select.lower(group, target).space}.get("winograd")

    wide = replace(NATIVE, l2_bytes=1 << 20, vector_bits=512, vector_registers=32)
    group = conv((1, 64, 56, 56), 64, (3, 3), wide, padding=1)
    assert taken(group, wide) == "4x4"
    assert taken(conv((1, 512, 7, 7), 512, (3, 3), wide, padding=1), wide) == "none", "its weights come from memory"
    assert taken(group, replace(wide, rounding=2.0)) == "2x2"
    assert taken(group, replace(wide, rounding=1.0)) is None
    assert taken(conv((1, 64, 56, 56), 64, (3, 3), wide, padding=1, dilation=2), wide) is None
    assert taken(conv((1, 64, 56, 56), 64, (1, 1), wide), wide) is None


def test_the_cost_model_takes_it_with_a_stride_where_it_pays() -> None:
    def taken(channels: int, extent: int, out: int) -> Any:
        group = conv((1, channels, extent, extent), out, (3, 3), wide, padding=1, stride=2)
        return {choice.name: choice.taken for choice in select.lower(group, wide).space}["winograd"]

    wide = replace(NATIVE, l2_bytes=1 << 20, vector_bits=512, vector_registers=32)
    assert taken(256, 28, 256) == taken(128, 28, 256) == taken(96, 28, 192) == "2x2", "0.78, 0.78 and 0.82 of the time"
    assert taken(48, 112, 48) == taken(48, 56, 96) == "none", "transforms cost more: 1.09 and 1.17"
    assert taken(128, 56, 128) == "none", "its image comes from memory, and its weights twice: 0.95 to 1.11"
    assert taken(512, 14, 512) == taken(192, 14, 1280) == "none", "its weights come from memory: 1.40 for the second"


def test_a_tile_of_a_greater_error_has_to_pay() -> None:
    wide = replace(NATIVE, l2_bytes=1 << 20, vector_bits=512, vector_registers=32)
    shape = winograd_plan.Shape(1, 16, 14, 14, 16, 14, 14, (3, 3), (1, 1))
    plans = winograd_plan._plans(shape, wide)
    small, great = (
        min(winograd_plan._cycles(shape, plan, wide) for plan in plans if plan.m == m) for m in ((2, 2), (2, 3))
    )
    assert 0.95 < great / small < 1, "by the model alone it would be taken"
    plan = winograd_plan.take(Choices(), shape, wide)
    assert plan is not None
    assert plan.m == (2, 2)


def test_pieces_are_small_where_the_cache_holds_all_weights() -> None:
    """With a stride, from 56 x 56, beside tensors of 5.2 MB in ResNet-50."""
    shape = winograd_plan.Shape(1, 8, 56, 56, 8, 28, 28, (3, 3), (1, 1), (2, 2))
    plan = winograd_plan.take(Choices(), shape, targets.TARGETS["x86-64-v4-amx"])
    assert plan is not None
    assert 64 * winograd_plan._scratch(shape, plan) < 500_000
    assert winograd_plan.take(Choices(), shape, targets.TARGETS["x86-64-v4"]) is None


def test_weights_are_transformed_when_they_are_packed() -> None:
    group = conv((1, 24, 8, 8), 40, (3, 3), padding=1)
    choices = Choices({"winograd": "4x2"})
    template = winograd.lower(group, NATIVE, choices)
    assert template is not None
    packing = template.packings[1]
    assert packing == Packing("winograd", NATIVE.lanes, NATIVE.lanes, (4, 2), wide=True)
    channels = -(-24 // NATIVE.lanes) * NATIVE.lanes
    assert packing.shape((40, 24, 3, 3)) == (-(-40 // NATIVE.lanes), 24, channels, NATIVE.lanes)
    direct = convolution.lower(group, NATIVE, Choices())
    assert direct is not None
    assert direct.packings[1] != packing
