"""Depthwise convolutions from shared memory, on emulated threads: kernels of any form, planes of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cuda_programs import TARGET, Kernels, machine_code
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_programs import program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import depthwise, nvrtc
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType
from specc.targets import Target


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return depthwise.lower(group, target, Choices(chosen))


def conv(
    n: int, c: int, places: Sequence[int], kernel: Sequence[int], *behind: Any, each: int = 1, **attrs: Any
) -> Group:
    """A depthwise convolution with a bias, `each` results of a channel, and steps behind: value 3 is its result."""
    inputs = [tensor(n, c, *places), weight(c * each, 1, *kernel), weight(c * each)]
    return program(inputs, ("conv2d", (0, 1, 2), {"groups": c, **attrs}), *behind)


GROUPS = {
    "small_planes": conv(2, 9, (7, 7), (3, 3), ("relu", (3,), {}), padding=1),
    "in_16_bits": program(
        [Input(TensorType((1, 6, 17, 20), "float16")), Input(TensorType((6, 1, 3, 3), "float16"), True)],
        ("conv2d", (0, 1), {"groups": 6, "padding": 1}),
    ),
    "half": conv(1, 5, (29, 30), (5, 5), ("silu", (3,), {}), padding=2, stride=2),
    "large": conv(1, 3, (40, 37), (31, 31), padding=15),
    "wide": conv(1, 4, (20, 45), (1, 21), padding=(0, 10)),
    "high": conv(1, 4, (20, 45), (11, 1), padding=(5, 0)),
    "dilated": conv(2, 3, (33, 20), (3, 5), ("mul", (3, 0), {}), padding=(3, 4), dilation=(3, 2)),
    "even_kernel": conv(1, 4, (12, 15), (2, 4), stride=(2, 3)),
    "several_results": conv(2, 3, (14, 14), (3, 3), each=4, padding=1),
    "one_place": conv(3, 70, (5, 5), (5, 5)),
    "many_planes": conv(1, 300, (4, 4), (3, 3), padding=1),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(GROUPS, lower, tmp_path_factory.mktemp("depthwise") / "kernels.so")


@pytest.mark.parametrize("name", GROUPS)
def test_equals_torch(name: str, kernels: Kernels) -> None:
    assert len(kernels.devices[name].launches) == 1
    kernels.check(name, tolerance=2.0**-10 if name == "in_16_bits" else 2e-6)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Tiles that a convolution may have, each: none of them divides its extents."""
    group = conv(1, 5, (23, 19), (5, 3), stride=(1, 2), padding=(2, 1))
    choices = Choices()
    assert depthwise.lower(group, TARGET, choices)
    (choice,) = choices.space
    names = {f"tile_{value}": value for value in choice.values}
    given = iter(names.values())

    def chosen(group: Group, target: Target) -> Template | None:
        return lower(group, target, tile=next(given))

    return Kernels(dict.fromkeys(names, group), chosen, tmp_path_factory.mktemp("tiles") / "kernels.so")


def test_tiles(tiles: Kernels) -> None:
    for name in tiles.groups:
        tiles.check(name)


def test_results_lie_along_the_longer_side_of_a_kernel() -> None:
    for kernel, axis in (((1, 21), 1), ((21, 1), 0)):
        tile = depthwise.choose(depthwise.Window(512, (56, 56), kernel, (1, 1), (1, 1)), TARGET, Choices())
        assert tile and tile.axis == axis and tile.results > 1


EXTENT, KERNEL, FACTOR = st.integers(3, 40), st.sampled_from((1, 2, 3, 5, 7, 9)), st.sampled_from((1, 1, 2, 3))


@st.composite
def convolutions(draw: st.DrawFn) -> Group:
    pair = {name: (draw(each), draw(each)) for name, each in (("places", EXTENT), ("kernel", KERNEL))}
    stride, dilation = (draw(FACTOR), draw(FACTOR)), (draw(FACTOR), draw(FACTOR))
    padding = (draw(st.integers(0, 4)), draw(st.integers(0, 4)))
    for places, kernel, d, p in zip(pair["places"], pair["kernel"], dilation, padding, strict=True):
        assume((kernel - 1) * d < places + 2 * p)
    n, c = draw(st.integers(1, 2)), draw(st.integers(2, 9))
    return conv(n, c, pair["places"], pair["kernel"], stride=stride, dilation=dilation, padding=padding)


@settings(max_examples=2, deadline=None)
@given(drawn=st.lists(convolutions(), min_size=6, max_size=6))
def test_any_window(drawn: list[Group], tmp_path_factory: pytest.TempPathFactory) -> None:
    groups = {f"any_{number}": group for number, group in enumerate(drawn)}
    kernels = Kernels(groups, lower, tmp_path_factory.mktemp("any") / "kernels.so")
    for name in groups:
        kernels.check(name)


def test_other_convolutions_are_left_to_others() -> None:
    dense = program([tensor(1, 8, 9, 9), weight(8, 8, 3, 3)], ("conv2d", (0, 1), {}))
    row = program([tensor(1, 8, 9), weight(8, 1, 3)], ("conv1d", (0, 1), {"groups": 8}))
    for group in (dense, row, program([tensor(64, 64)], ("relu", (0,), {}))):
        assert lower(group, TARGET) is None


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", ["sm_80", "sm_89", "sm_90"])
def test_everything_fits_in_registers_and_shared_memory(gpu: str) -> None:
    groups = {name: GROUPS[name] for name in ("half", "large", "wide", "dilated")}
    groups |= {"wider": conv(1, 96, (56, 56), (7, 7), padding=3), "seven": conv(1, 768, (7, 7), (7, 7), padding=3)}
    for usage, launch in machine_code(groups, lower, targets.find(f"cuda:{gpu}")):
        assert usage.stack == 0 and usage.shared <= 49 << 10 and usage.registers * launch.threads <= 65536
