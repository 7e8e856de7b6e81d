"""Depthwise and 1x1 convolutions on emulated threads: in one launch and in several, and mistakes in that one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from cuda_programs import (
    TARGET,
    Kernels,
    Mistake,
    instructions_that_fit,
    judge,
    kernels_for,
    rounding_between,
    shifted,
    with_mistakes,
    without_barrier,
)
from kernel_programs import program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import nvrtc, separable, separable_kernel, separable_products
from specc.backends.tvm.cuda.device import device
from specc.backends.tvm.cuda.intrinsics import wait
from specc.backends.tvm.cuda.separable_kernel import Separable
from specc.backends.tvm.cuda.separable_tiles import Tile, ranked
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input, cut
from specc.ir.types import TensorType
from specc.targets import Target

GPUS = [target for target in targets.TARGETS.values() if target.gpu]


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return separable.lower(group, target, Choices(chosen))


def pair(
    data: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int] = (3, 3),
    *behind: Any,
    dtype: str = "float32",
    act: str = "relu",
    each: int = 1,
    **attrs: Any,
) -> Group:
    """A depthwise convolution with a bias, `act`, and a 1x1 convolution with a bias; steps behind that.

    Of float32, the result is value 7; of 16 bits, what is between the convolutions is rounded, and it is value 8.
    """
    c = data[1] * each

    def side(*shape: int, frozen: bool) -> Input:
        return Input(TensorType(shape, dtype), frozen)

    inputs = [
        side(*data, frozen=False),
        *(side(c, 1, *kernel, frozen=True), weight(c)),
        *(side(outputs, c, 1, 1, frozen=True), weight(outputs)),
    ]
    steps: list[Any] = [("conv2d", (0, 1, 2), {"groups": data[1], **attrs}), (act, (5,), {})]
    if dtype != "float32":
        steps.append(("cast", (6,), {"dtype": dtype}))
    steps.append(("conv2d", (len(inputs) + len(steps) - 1, 3, 4), {}))
    return program(inputs, *steps, *behind)


def rounded(value: int, dtype: str = "float16") -> Any:
    return "cast", (value,), {"dtype": dtype}


def residual(dtype: str) -> Group:
    """What is between the convolutions is multiplied by the input, and the input is added behind both."""
    inputs = [
        Input(TensorType((2, 24, 10, 12), dtype)),
        *(Input(TensorType(shape, dtype), True) for shape in ((24, 1, 3, 3), (24, 24, 1, 1))),
    ]
    return program(
        inputs,
        ("conv2d", (0, 1), {"groups": 24, "padding": 1}),
        ("constant", (), {"value": 0.5, "shape": ()}),
        ("mul", (3, 4), {}),
        ("mul", (5, 0), {}),
        ("cast", (6,), {"dtype": dtype}),
        ("conv2d", (7, 2), {}),
        ("mul", (8, 4), {}),
        ("add", (9, 0), {}),
        ("cast", (10,), {"dtype": dtype}),
    )


SHAPES: dict[str, Any] = {
    "ragged": ((2, 19, 13, 11), 21, (3, 3), {"padding": 1}),
    "half": ((1, 40, 17, 16), 70, (5, 5), {"padding": 2, "stride": 2, "act": "sigmoid"}),
    "dilated": ((1, 33, 12, 20), 32, (3, 5), {"padding": (2, 4), "dilation": 2}),
    "even_kernel": ((1, 16, 9, 12), 16, (2, 4), {"stride": (1, 2)}),
    "several_results": ((1, 12, 7, 7), 24, (3, 3), {"each": 3, "padding": 1, "act": "silu"}),
    "large_kernel": ((1, 17, 8, 16), 40, (7, 7), {"padding": 3}),
}
GROUPS = {
    **{f"{name}_float32": pair(*extents, **attrs) for name, (*extents, attrs) in SHAPES.items()},
    **{
        f"{name}_{dtype}": pair(*extents, rounded(8, dtype), dtype=dtype, **attrs)
        for dtype, names in (("float16", SHAPES), ("bfloat16", ("ragged", "half")))
        for name in names
        for *extents, attrs in (SHAPES[name],)
    },
    "residual_float16": residual("float16"),
    "in_several": pair((1, 19, 9, 7), 24, padding=1),
    "in_several_float16": pair((1, 24, 7, 7), 32, (3, 3), rounded(8), dtype="float16", padding=1),
    "in_several_residual": residual("bfloat16"),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    given = iter(GROUPS)

    def chosen(group: Group, target: Target) -> Template | None:
        return lower(group, target, fused=not next(given).startswith("in_several"))

    return Kernels(GROUPS, chosen, tmp_path_factory.mktemp("separable") / "kernels.so")


@pytest.mark.parametrize("name", GROUPS)
def test_equals_torch(name: str, kernels: Kernels) -> None:
    several = {"in_several": 2, "in_several_float16": 3, "in_several_residual": 2}
    assert len(kernels.devices[name].launches) == several.get(name, 1)
    kernels.check(name, tolerance=rounding_between(GROUPS[name]))


# ---- tiles -----------------------------------------------------------------------------------------------------------

TILED = {
    "float32": pair((1, 18, 9, 10), 140, padding=1),
    "float16": pair((1, 33, 9, 10), 270, (3, 3), rounded(8), dtype="float16", padding=1),
}


def tiles_of(group: Group) -> list[Tile]:
    chain = separable.chain_of(group)
    assert chain is not None
    return ranked(separable.shape_of(group, chain), TARGET)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Convolutions that no tile divides, in tiles of each size of 16 bits, and of float32."""
    chosen = {}
    for dtype, group in TILED.items():
        sizes = {(tile.rows, tile.extents): tile for tile in tiles_of(group)}
        chosen |= {f"tile_{tile.name}_{dtype}": (group, tile.name) for tile in sizes.values()}
    given = iter(chosen.values())
    return Kernels(
        {name: group for name, (group, _) in chosen.items()},
        lambda group, target: lower(group, target, fused=True, tile=next(given)[1]),
        tmp_path_factory.mktemp("tiles") / "kernels.so",
    )


def test_tiles(tiled: Kernels) -> None:
    for name, group in tiled.groups.items():
        tiled.check(name, tolerance=rounding_between(group))


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", GPUS, ids=lambda target: target.gpu)
def test_everything_fits_in_registers_and_shared_memory(gpu: Target, tiled: Kernels) -> None:
    groups = {
        "wide": pair((1, 192, 28, 28), 64, padding=1),
        "half": pair((1, 96, 112, 112), 24, (3, 3), rounded(8), dtype="float16", padding=1, stride=2),
        "five": pair((8, 240, 14, 14), 80, (5, 5), rounded(8, "bfloat16"), dtype="bfloat16", padding=2),
    }
    made = kernels_for(groups, lambda group, target: lower(group, target, fused=True), gpu)
    devices = {name: device(name, kernel, gpu) for name, kernel in made.items()}
    if gpu == TARGET:
        devices |= dict([*tiled.devices.items()][::3])
    for name, counts in instructions_that_fit(devices, gpu):
        cores = name in ("half", "five") or name.endswith("float16")
        assert bool(counts["HMMA"]) == bool(counts["LDSM"]) == cores, name


# ---- mistakes --------------------------------------------------------------------------------------------------------


MISTAKES: dict[str, Mistake] = {
    "right": lambda patch: None,
    "first_barrier": without_barrier(separable_kernel, 0),
    "barrier_before_products": without_barrier(separable_kernel, 1),
    "barrier_behind_products": without_barrier(separable_kernel, 2),
    "no_wait": lambda patch: patch.setattr(separable_products, "wait", lambda groups: None),
    "late_wait": lambda patch: patch.setattr(separable_products, "wait", lambda groups: wait(2)),
    "next_picture": shifted(Separable, "_fetch", 0),
    "next_channel": shifted(Separable, "_channel", 1),
    "next_row": shifted(Separable, "_take", 0),
    "next_run": shifted(Separable, "_run", 2),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    group = pair((1, 64, 8, 16), 32, (3, 3), rounded(8), dtype="float16", padding=1)
    folder = tmp_path_factory.mktemp("mistakes")
    return with_mistakes(group, partial(lower, fused=True, tile="32x8x8_16"), MISTAKES, folder / "kernels.so")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_index_or_a_race_is_found(name: str, mistaken: Kernels) -> None:
    judge(name, mistaken, 2.0**-9)


# ---- choices ---------------------------------------------------------------------------------------------------------


def times(group: Group, target: Target) -> tuple[float, float]:
    """Cycles of one launch and of several, as the model has them."""
    chain = separable.chain_of(group)
    assert chain is not None
    shape = separable.shape_of(group, chain)
    tiles = ranked(shape, target)
    return (
        separable.one_launch(tiles[0], shape, target),
        separable.several_launches(cut(group, chain.middle), shape, target),
    )


def test_one_launch_is_chosen_where_the_model_says_that_it_gains() -> None:
    """What is between leaves the cache, or is small; and one block after the other waits for memory."""
    cases = {
        (64, 96, 112, 112): (24, True),
        (1, 32, 112, 112): (64, True),
        (64, 512, 14, 14): (512, False),
        (1, 960, 7, 7): (160, False),
    }
    for data, (outputs, together) in cases.items():
        group, choices = pair(data, outputs, (3, 3), rounded(8), dtype="float16", padding=1), Choices()
        assert separable.lower(group, TARGET, choices) is not None
        one, several = times(group, TARGET)
        assert choices.space[0].taken is together is (one < several)


def test_other_groups_are_left_to_others() -> None:
    alone = program([tensor(1, 8, 9, 9), weight(8, 1, 3, 3)], ("conv2d", (0, 1), {"groups": 8}))
    inputs = [tensor(1, 8, 9, 9), weight(8, 1, 3, 3), weight(8, 8, 3, 3)]
    window = program(inputs, ("conv2d", (0, 1), {"groups": 8}), ("conv2d", (3, 2), {}))
    varying = program([*inputs[:2], tensor(8, 8, 1, 1)], ("conv2d", (0, 1), {"groups": 8}), ("conv2d", (3, 2), {}))
    for group in (alone, window, varying, program([tensor(64, 64)], ("relu", (0,), {}))):
        assert lower(group, TARGET) is None
