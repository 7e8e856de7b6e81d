"""Attention in one launch, on emulated threads: extents that no tile divides, biases, masks, joint projections."""

from __future__ import annotations

import math
from typing import Any

import pytest
from attention_programs import check_masks, joint, plain, windows
from cuda_programs import TARGET, Kernels, machine_code
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_programs import program, tensor

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import attention, nvrtc
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType
from specc.targets import Target


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return attention.lower(group, target, Choices(chosen))


def biased(bias: Any) -> Group:
    """With a bias or a mask on the scores."""
    operands = [tensor(2, 3, 21, 8), tensor(2, 3, 8, 35), tensor(2, 3, 35, 16), bias]
    steps: Any = [("matmul", (0, 1), {}), ("add", (4, 3), {}), ("softmax", (5,), {"axis": 3}), ("matmul", (6, 2), {})]
    return program(operands, *steps)


def halves() -> Group:
    """Factors in 16 bits, weights that are rounded for the second product, a result that is."""
    shapes = ((2, 21, 24), (2, 24, 40), (2, 40, 16))
    operands = [Input(TensorType(shape, "bfloat16")) for shape in shapes]
    return program(
        operands,
        ("matmul", (0, 1), {}),
        ("softmax", (3,), {"axis": -1}),
        ("cast", (4,), {"dtype": "bfloat16"}),
        ("matmul", (5, 2), {}),
        ("cast", (6,), {"dtype": "bfloat16"}),
    )


GROUPS = {
    "long": plain((1, 2), 197, 197, 64, 64),
    "odd": plain((), 5, 70, 8, 40),
    "one_key": plain((2,), 64, 1, 17, 1),
    "one_query": plain((2, 2), 1, 130, 24, 24),
    "wide": plain((2,), 40, 50, 160, 192),
    "joint": joint(2, 19, 3, 20),
    "joint_of_a_head": joint(1, 40, 1, 32),
    "windows": windows(49),
    "in_16_bits": halves(),
}
BIASES = {
    "_".join(("bias", *map(str, shape))): biased(tensor(*shape))
    for shape in ((3, 21, 35), (2, 1, 21, 35), (35,), (21, 1), (2, 1, 1, 35), ())
}
SIZES = (3, 45, 77, 24, 40)
TILES = [tile for tile in attention.TILES if tile.shared(*SIZES[3:]) <= 48 << 10 and tile.registers(SIZES[4]) < 200]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(GROUPS | BIASES, lower, tmp_path_factory.mktemp("attention") / "kernels.so")


@pytest.mark.parametrize("name", GROUPS | BIASES)
def test_equals_torch(name: str, kernels: Kernels) -> None:
    """Scores of independent factors grow with the root of the depth, and their rounding with them."""
    group = kernels.groups[name]
    assert len(kernels.devices[name].launches) == 1 and not kernels.kernels[name].temporaries
    exact = 2e-6 * math.sqrt(group.inputs[0].type.concrete[-1])
    kernels.check(name, tolerance=2.0**-6 if name == "in_16_bits" else exact)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """A third of all tiles, on extents that none divides."""
    group, names = plain((SIZES[0],), *SIZES[1:]), [f"tile_{tile.name}" for tile in TILES[::3]]
    given = iter(TILES[::3])

    def chosen(group: Group, target: Target) -> Template | None:
        return lower(group, target, tile=next(given).name)

    return Kernels(dict.fromkeys(names, group), chosen, tmp_path_factory.mktemp("tiles") / "kernels.so")


def test_tiles(tiles: Kernels) -> None:
    for name in tiles.groups:
        tiles.check(name, tolerance=1e-5)


def test_masks_hide_keys(kernels: Kernels) -> None:
    check_masks(kernels, "bias_2_1_21_35", tolerance=1e-5)


EXTENTS = st.sampled_from((1, 2, 3, 7, 16, 17, 31, 33, 49))


@settings(max_examples=2, deadline=None)
@given(st.lists(st.tuples(EXTENTS, EXTENTS, EXTENTS, EXTENTS), min_size=5, max_size=5))
def test_any_extents(tmp_path_factory: pytest.TempPathFactory, sizes: Any) -> None:
    groups = {f"any_{number}": plain((2,), *each) for number, each in enumerate(sizes)}
    kernels = Kernels(groups, lower, tmp_path_factory.mktemp("any") / "kernels.so")
    for name in groups:
        kernels.check(name, tolerance=2e-6 * math.sqrt(49))


def test_what_is_no_attention_or_a_head_too_wide_is_left_to_others() -> None:
    softmax = program([tensor(3, 9, 9)], ("softmax", (0,), {"axis": -1}))
    for group in (softmax, plain((), 20, 20, 700, 16)):
        assert lower(group, TARGET) is None


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", ["sm_80", "sm_89", "sm_90"])
def test_everything_fits_in_registers_and_shared_memory(gpu: str) -> None:
    groups = {name: GROUPS[name] for name in ("long", "wide", "windows")} | {"heads": plain((12,), 197, 197, 64, 64)}
    for usage, launch in machine_code(groups, lower, targets.find(f"cuda:{gpu}")):
        assert usage.stack == 0 and usage.shared <= 49 << 10 and usage.registers * launch.threads <= 65536
