"""Inverted residuals on emulated threads: whole and in part in one launch, in several, and mistakes in that one."""

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
from kernel_programs import program, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import expansion, expansion_kernel, nvrtc
from specc.backends.tvm.cuda.device import device
from specc.backends.tvm.cuda.expansion_kernel import CoreSource, Expansion
from specc.backends.tvm.cuda.expansion_tiles import Tile, ranked
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType
from specc.targets import Target

GPUS = [target for target in targets.TARGETS.values() if target.gpu]


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return expansion.lower(group, target, Choices(chosen))


def residual(
    data: tuple[int, int, int, int],
    wide: int,
    outputs: int,
    kernel: tuple[int, int] = (3, 3),
    dtype: str = "float32",
    act: str = "sigmoid",
    added: bool = False,
    **attrs: Any,
) -> Group:
    """An expansion, a depthwise convolution and, unless `outputs` is 0, a projection, each with a bias, `act` behind
    the first two, and the data `added` to the result.

    Of 16 bits, what lies between two convolutions is rounded, and the result. A sigmoid is nowhere 0: it shows what is
    around the picture.
    """

    def side(*shape: int, frozen: bool = True) -> Input:
        return Input(TensorType(shape, dtype), frozen)

    inputs = [side(*data, frozen=False), side(wide, data[1], 1, 1), weight(wide), side(wide, 1, *kernel), weight(wide)]
    inputs += [side(outputs, wide, 1, 1), weight(outputs)] if outputs else []
    steps: list[Any] = []

    def behind(op: str, *operands: int, **attrs: Any) -> int:
        """Adds a step that reads the last one's result, if there is one, and `operands`."""
        last = (len(inputs) + len(steps) - 1,) if steps else ()
        steps.append((op, (*last, *operands), attrs))
        return len(inputs) + len(steps) - 1

    def rounded() -> None:
        if dtype != "float32":
            behind("cast", dtype=dtype)

    behind("conv2d", 0, 1, 2)
    behind(act)
    rounded()
    behind("conv2d", 3, 4, groups=wide, **attrs)
    behind(act)
    if outputs:
        rounded()
        behind("conv2d", 5, 6)
    if added:
        behind("add", 0)
    rounded()
    return program(inputs, *steps)


SHAPES: dict[str, Any] = {
    "ragged": ((2, 10, 13, 11), 37, 21, (3, 3), {"padding": 1}),
    "half": ((1, 17, 15, 16), 40, 70, (5, 5), {"padding": 2, "stride": 2}),
    "residual": ((1, 24, 10, 12), 36, 24, (3, 3), {"padding": 1, "added": True, "act": "silu"}),
    "even_kernel": ((1, 9, 9, 12), 16, 16, (2, 4), {"stride": (1, 2)}),
    "dilated": ((1, 12, 9, 17), 20, 12, (3, 5), {"padding": (2, 4), "dilation": 2}),
}
GROUPS = {
    f"{name}{'' if outputs else '_front'}_{dtype}": residual(data, wide, outputs, kernel, dtype=dtype, **attrs)
    for dtype, names in (("float32", SHAPES), ("float16", SHAPES), ("bfloat16", ("ragged",)))
    for name in names
    for data, wide, outs, kernel, attrs in (SHAPES[name],)
    for outputs in ((outs,) if attrs.get("added") else (outs, 0))
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(GROUPS, partial(lower, fused="all"), tmp_path_factory.mktemp("expansion") / "kernels.so")


@pytest.mark.parametrize("name", GROUPS)
def test_equals_torch(name: str, kernels: Kernels) -> None:
    assert len(kernels.devices[name].launches) == 1
    kernels.check(name, tolerance=rounding_between(GROUPS[name]))


# ---- in several launches ---------------------------------------------------------------------------------------------

_SMALL = (1, 16, 8, 8), 32
SEVERAL: dict[str, tuple[Group, dict[str, Value], int]] = {
    "apart": (residual(*_SMALL, 0, padding=1), {"fused": "apart"}, 2),
    "front": (residual(*_SMALL, 16, padding=1, added=True), {"fused": "front", "front.fused": "all"}, 2),
    "front_float16": (
        residual(*_SMALL, 16, padding=1, added=True, dtype="float16"),
        {"fused": "front", "front.fused": "all"},
        2,
    ),
    "back": (residual(*_SMALL, 16, padding=1), {"fused": "back", "rest.fused": True}, 2),
    "back_float16": (
        residual(*_SMALL, 16, padding=1, dtype="float16"),
        {"fused": "back", "rest.fused": False},
        3,
    ),
}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    given = iter(SEVERAL.values())
    return Kernels(
        {name: group for name, (group, _, _) in SEVERAL.items()},
        lambda group, target: lower(group, target, **next(given)[1]),
        tmp_path_factory.mktemp("several") / "kernels.so",
    )


@pytest.mark.parametrize("name", SEVERAL)
def test_in_several_launches(name: str, several: Kernels) -> None:
    group, _, launches = SEVERAL[name]
    assert len(several.devices[name].launches) == launches
    several.check(name, tolerance=rounding_between(group))


# ---- tiles -----------------------------------------------------------------------------------------------------------

TILED = {
    "float32": residual((1, 9, 9, 10), 34, 40, padding=1),
    "float16": residual((1, 20, 9, 10), 50, 70, dtype="float16", padding=1),
    "front_float32": residual((1, 9, 9, 10), 72, 0, padding=1),
    "front_float16": residual((1, 20, 9, 10), 100, 0, dtype="float16", padding=1),
}


def tiles_of(group: Group) -> list[Tile]:
    block = expansion.block_of(group)
    assert block is not None
    return ranked(expansion.shape_of(group, block), TARGET)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Convolutions that no tile divides, in tiles of several sizes."""
    chosen = {}
    for name, group in TILED.items():
        sizes = {(tile.rows, tile.workers, tile.extents): tile for tile in tiles_of(group)}
        chosen |= {f"tile_{tile.name}_{name}": (group, tile.name) for tile in [*sizes.values()][::2]}
    given = iter(chosen.values())
    return Kernels(
        {name: group for name, (group, _) in chosen.items()},
        lambda group, target: lower(group, target, fused="all", tile=next(given)[1]),
        tmp_path_factory.mktemp("tiles") / "kernels.so",
    )


def test_tiles(tiled: Kernels) -> None:
    for name, group in tiled.groups.items():
        tiled.check(name, tolerance=rounding_between(group))


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", GPUS, ids=lambda target: target.gpu)
def test_everything_fits_in_registers_and_shared_memory(gpu: Target, tiled: Kernels) -> None:
    groups = {
        "whole": residual((1, 24, 56, 56), 144, 24, padding=1, added=True),
        "whole_float16": residual((1, 64, 14, 14), 384, 64, dtype="float16", padding=1, added=True),
        "half_float16": residual((64, 32, 28, 28), 192, 64, dtype="float16", padding=1, stride=2),
        "front": residual((1, 40, 28, 28), 240, 0, (5, 5), padding=2),
        "front_bfloat16": residual((64, 40, 28, 28), 240, 0, (5, 5), dtype="bfloat16", padding=2, act="silu"),
    }
    made = kernels_for(groups, partial(lower, fused="all"), gpu)
    devices = {name: device(name, kernel, gpu) for name, kernel in made.items()}
    if gpu == TARGET:
        devices |= dict([*tiled.devices.items()][::3])
    for name, counts in instructions_that_fit(devices, gpu):
        assert bool(counts["HMMA"]) == bool(counts["LDSM"]) == name.endswith("float16"), name


# ---- mistakes --------------------------------------------------------------------------------------------------------


def _no_zeros(patch: pytest.MonkeyPatch) -> None:
    """Has pixels around the picture be what the activation makes of a bias."""
    right: Any = Expansion._pixel
    patch.setattr(Expansion, "_pixel", lambda self, pixel: (True, right(self, pixel)[1]))
    patch.setattr(CoreSource, "begin", _bringing(right, CoreSource.begin))


def _bringing(pixel: Any, begin: Any) -> Any:
    """`CoreSource.begin` that reads no place outside of the picture all the same."""
    return lambda self, number, place: begin(self, number, partial(pixel, place.__self__))


MISTAKES: dict[str, Mistake] = {
    "right": lambda patch: None,
    "first_barrier": without_barrier(expansion_kernel, 0),
    "barrier_behind_expansion": without_barrier(expansion_kernel, 1),
    "barrier_behind_filtering": without_barrier(expansion_kernel, 2),
    "no_wait": lambda patch: patch.setattr(expansion_kernel, "wait", lambda groups: None),
    "no_zeros": _no_zeros,
    "next_pixel": shifted(Expansion, "_pixel", 0),
    "next_channel": shifted(Expansion, "_channel", 1),
    "next_weights": shifted(CoreSource, "fetch", 0),
    "next_row": shifted(Expansion, "_take", 0),
    "next_run": shifted(Expansion, "_run", 2),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    group = residual((1, 24, 8, 16), 64, 32, dtype="float16", padding=1)
    folder = tmp_path_factory.mktemp("mistakes")
    return with_mistakes(group, partial(lower, fused="all", tile="32x8x8_16"), MISTAKES, folder / "kernels.so")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_index_or_a_race_is_found(name: str, mistaken: Kernels) -> None:
    judge(name, mistaken, 2.0**-9)


# ---- choices ---------------------------------------------------------------------------------------------------------


def test_what_takes_least_time_by_the_model_is_chosen() -> None:
    """Wide tensors of few sources are computed again sooner than moved; of many, each in a launch of its own is."""
    cases: dict[tuple[Any, ...], str] = {
        ((1, 16, 112, 112), 96, 24, "float16", 2): "all",
        ((64, 24, 56, 56), 144, 24, "float16", 1): "all",
        ((1, 64, 14, 14), 384, 64, "float16", 1): "front",
        ((1, 64, 14, 14), 384, 64, "float32", 1): "back",
        ((1, 40, 28, 28), 240, 0, "float16", 1): "all",
        ((64, 112, 14, 14), 672, 0, "float32", 1): "apart",
    }
    for (data, wide, outputs, dtype, stride), way in cases.items():
        group, choices = residual(data, wide, outputs, dtype=dtype, padding=1, stride=stride), Choices()
        block = expansion.block_of(group)
        assert block is not None and expansion.lower(group, TARGET, choices) is not None
        times = expansion.ways(group, block, TARGET)
        assert choices.space[0].taken == way == min(times, key=lambda way: times[way]), (data, times)


def test_a_source_that_does_not_fit_is_read_from_memory_twice() -> None:
    group = residual((1, 200, 9, 9), 400, 24, (7, 7), dtype="float16", padding=3)
    block = expansion.block_of(group)
    assert block is not None and set(expansion.ways(group, block, TARGET)) == {"back"}


def test_other_groups_are_left_to_others() -> None:
    window = [Input(TensorType((1, 8, 9, 9))), weight(16, 8, 3, 3), weight(16, 1, 3, 3)]
    deep: Any = ("conv2d", (3, 2), {"groups": 16})
    varying = [*window[:1], Input(TensorType((16, 8, 1, 1))), *window[2:]]
    twice = [Input(TensorType((1, 8, 9, 9))), weight(8, 1, 3, 3), weight(8, 1, 1, 1)]
    groups = (
        program(window, ("conv2d", (0, 1), {}), deep),
        program(varying, ("conv2d", (0, 1), {}), deep),
        program(twice, ("conv2d", (0, 1), {"groups": 8}), ("conv2d", (3, 2), {"groups": 8})),
        program(window, ("conv2d", (0, 1), {})),
    )
    for group in groups:
        assert lower(group, TARGET) is None
