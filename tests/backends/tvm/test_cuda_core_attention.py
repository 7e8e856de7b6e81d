"""Attention of 16 bits on tensor cores, on emulated threads: the ways in which factors lie, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from attention_programs import check_masks, parted
from cuda_programs import TARGET, Kernels, Mistake, instructions_that_fit, judge, kernels_for, with_mistakes
from kernel_programs import program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import core_attention, nvrtc
from specc.backends.tvm.cuda.core_attention import TILES
from specc.backends.tvm.cuda.device import device
from specc.backends.tvm.cuda.intrinsics import pair
from specc.backends.tvm.cuda.sides import Side
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType
from specc.targets import Target

GPUS = [target for target in targets.TARGETS.values() if target.gpu]


def half(*shape: int, dtype: str = "float16") -> Input:
    return Input(TensorType(shape, dtype))


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return core_attention.lower(group, target, Choices(chosen))


def attention(
    inputs: list[Input], before: list[Any], factors: tuple[int, int, int], behind: list[Any], dtype: str = "float16"
) -> Group:
    """Steps in front; softmax(0.25 * q @ k) @ v of those `factors`, weights rounded; steps behind."""
    first = len(inputs) + len(before)
    q, k, v = factors
    steps = [
        *before,
        ("matmul", (q, k), {}),
        ("constant", (), {"value": 0.25, "shape": ()}),
        ("mul", (first, first + 1), {}),
        ("softmax", (first + 2,), {"axis": -1}),
        ("cast", (first + 3,), {"dtype": dtype}),
        ("matmul", (first + 4, v), {}),
    ]
    for number, (op, attrs) in enumerate(behind):
        steps.append((op, (first + 5 + number,), attrs))
    return program(inputs, *steps)


def plain(lead: tuple[int, ...], queries: int, keys: int, depth: int, width: int, dtype: str = "float16") -> Group:
    """k as [.., d, j]."""
    shapes = ((*lead, queries, depth), (*lead, depth, keys), (*lead, keys, width))
    return attention([half(*s, dtype=dtype) for s in shapes], [], (0, 1, 2), [("cast", {"dtype": dtype})], dtype)


def joint(n: int, length: int, heads: int, depth: int, dtype: str = "float16") -> Group:
    """[n, l, 3 * heads * d] --> slices, reshapes, permutes, attention, permute, reshape --> [n, l, heads * d]."""
    inputs = [half(n, length, 3 * heads * depth, dtype=dtype)]
    behind = [
        ("permute", {"order": (0, 2, 1, 3)}),
        ("reshape", {"shape": (n, length, heads * depth)}),
        ("cast", {"dtype": dtype}),
    ]
    return attention(inputs, parted(n, length, heads, depth), (3, 6, 9), behind, dtype)


def biased(*bias: int) -> Group:
    inputs = [half(2, 3, 21, 8), half(2, 3, 8, 35), half(2, 3, 35, 16), tensor(*bias)]
    return program(
        inputs,
        ("matmul", (0, 1), {}),
        ("add", (4, 3), {}),
        ("softmax", (5,), {"axis": 3}),
        ("cast", (6,), {"dtype": "float16"}),
        ("matmul", (7, 2), {}),
    )


def windows() -> Group:
    """A bias of each head, then a mask of each window, as in Swin (arXiv:2103.14030)."""
    inputs = [half(6, 2, 49, 32), half(6, 2, 32, 49), half(6, 2, 49, 32), weight(2, 49, 49), weight(3, 1, 49, 49)]
    return program(
        inputs,
        ("matmul", (0, 1), {}),
        ("add", (5, 3), {}),
        ("reshape", (6,), {"shape": (2, 3, 2, 49, 49)}),
        ("add", (7, 4), {}),
        ("reshape", (8,), {"shape": (6, 2, 49, 49)}),
        ("softmax", (9,), {"axis": -1}),
        ("cast", (10,), {"dtype": "float16"}),
        ("matmul", (11, 2), {}),
        ("cast", (12,), {"dtype": "float16"}),
    )


GROUPS = {
    "keys_run": plain((2,), 70, 136, 64, 64),
    "depth_runs": joint(1, 100, 2, 32),
    "bfloat16": joint(2, 40, 2, 48, "bfloat16"),
    "runs_of_4_and_2": joint(1, 20, 3, 20),
    "an_odd_depth": joint(1, 37, 1, 17, "bfloat16"),
    "few_keys": plain((2, 2), 17, 9, 16, 24),
    "wide": plain((), 33, 40, 80, 128),
    "values_that_run_along_keys": attention(
        [half(2, 24, 16), half(2, 40, 16), half(2, 32, 40)],
        [("permute", (1,), {"order": (0, 2, 1)}), ("permute", (2,), {"order": (0, 2, 1)})],
        (0, 3, 4),
        [("permute", {"order": (0, 2, 1)})],
    ),
    "computed_factors": attention(
        [tensor(2, 24, 16), tensor(2, 16, 40), tensor(2, 40, 32)],
        [("cast", (number,), {"dtype": "float16"}) for number in range(3)],
        (3, 4, 5),
        [],
    ),
    "keys_of_all_heads": attention([half(3, 20, 16), half(1, 16, 40), half(40, 16)], [], (0, 1, 2), []),
    "windows": windows(),
}
BIASES = {"_".join(("bias", *map(str, shape))): biased(*shape) for shape in ((3, 21, 35), (2, 1, 21, 35), (35,), ())}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(GROUPS | BIASES, lower, tmp_path_factory.mktemp("attention") / "kernels.so")


def rounding(group: Group) -> float:
    """What a result may differ by: weights and the result are rounded."""
    return 2.0**-6 if any(step.type.dtype == "bfloat16" for step in group.steps) else 2.0**-9


@pytest.mark.parametrize("name", GROUPS | BIASES)
def test_equals_torch(name: str, kernels: Kernels) -> None:
    group = kernels.groups[name]
    assert len(kernels.devices[name].launches) == 1 and not kernels.kernels[name].temporaries
    kernels.check(name, tolerance=rounding(group))


def test_what_lies_in_runs_is_copied_on_its_way(kernels: Kernels) -> None:
    for name, each in kernels.devices.items():
        computed = name in ("an_odd_depth", "computed_factors")
        assert ("specc_copy_" in each.text) != computed or name.startswith("bias"), name
    for name, sizes in (("keys_run", "16"), ("bfloat16", "16"), ("runs_of_4_and_2", "8")):
        assert f"specc_copy_{sizes}(" in kernels.devices[name].text


def test_masks_hide_keys(kernels: Kernels) -> None:
    check_masks(kernels, "bias_2_1_21_35", tolerance=2.0**-9)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Every other tile, on extents that none divides."""
    given = iter(TILES[::2])
    return Kernels(
        dict.fromkeys((f"tile_{tile.name}" for tile in TILES[::2]), plain((2,), 45, 152, 24, 40)),
        lambda group, target: lower(group, target, tile=next(given).name),
        tmp_path_factory.mktemp("tiles") / "kernels.so",
    )


def test_tiles(tiles: Kernels) -> None:
    for name in tiles.groups:
        tiles.check(name, tolerance=2.0**-9)


# ---- that the comparison would notice --------------------------------------------------------------------------------


def swapped(which: int) -> Callable[..., Any]:
    """Words with the two numbers changed over: of queries, which are written first, or of powers."""
    calls = 0

    def made(dtype: str, low: Any, high: Any) -> Any:
        nonlocal calls
        calls += 1
        return pair(dtype, high, low) if calls == which else pair(dtype, low, high)

    return made


def turned(load: Any) -> Callable[..., None]:
    """Fragments whose second and third matrix of 8 x 8 have changed places."""

    def made(self: Side, *arguments: Any, second: str) -> None:
        load(self, *arguments, second="own" if second == "k" else "k")

    return made


MISTAKES: dict[str, Mistake] = {
    "right": lambda patch: None,
    "queries": lambda patch: patch.setattr(core_attention, "pair", swapped(1)),
    "powers": lambda patch: patch.setattr(core_attention, "pair", swapped(2)),
    "matrices": lambda patch: patch.setattr(Side, "load", turned(Side.load)),
    "half_a_quad": lambda patch: patch.setattr(core_attention, "_QUAD", (1,)),
    "another_quad": lambda patch: patch.setattr(core_attention, "_QUAD", (4, 8)),
    "no_wait": lambda patch: patch.setattr(core_attention, "wait", lambda groups: None),
    "no_barrier": lambda patch: patch.setattr(core_attention, "barrier", lambda: None),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    group = plain((1,), 32, 48, 32, 32)
    folder = tmp_path_factory.mktemp("mistakes")
    return with_mistakes(group, partial(lower, tile="32x16_16"), MISTAKES, folder / "kernels.so")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_permuted_fragment_or_a_race_is_found(name: str, mistaken: Kernels) -> None:
    judge(name, mistaken, 2.0**-9)


# ---- machine code and choices ----------------------------------------------------------------------------------------

HEADS = {
    "vit": plain((12,), 197, 197, 64, 64),
    "bert": joint(1, 128, 2, 64, "bfloat16"),
    "wide_heads": plain((8,), 256, 256, 128, 128),
    "widest_heads": plain((8,), 64, 64, 192, 192),
    "swin": windows(),
}


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", GPUS, ids=lambda target: target.gpu)
def test_machine_code_multiplies_on_tensor_cores_from_registers(gpu: Target) -> None:
    chosen = dict.fromkeys(HEADS, "") | {f"tile_{tile.name}": tile.name for tile in TILES[1::4] if gpu == TARGET}
    groups = {name: HEADS.get(name, HEADS["vit"]) for name in chosen}
    given = iter(chosen.values())
    made = kernels_for(groups, lambda group, target: lower(group, target, tile=next(given)), gpu)
    devices = {name: device(name, kernel, gpu) for name, kernel in made.items()}
    for name, counts in instructions_that_fit(devices, gpu):
        assert counts["HMMA"] and counts["LDSM"] and counts["LDGSTS"] and counts["MUFU"] and counts["SHFL"], name


def test_choices() -> None:
    for tile in TILES:
        assert tile.threads % 32 == 0 and tile.shared(64, 64) > 0
    choices = Choices({"tile": "64x32_16"})
    found = core_attention.choose((12, 197, 197, 64, 64), TARGET, choices)
    assert found is not None and found.name == "64x32_16" and [c.name for c in choices.space] == ["tile"]


def test_what_is_of_float32_or_too_small_or_too_wide_is_left_to_others() -> None:
    wide = program(
        [tensor(9, 16), tensor(16, 9), tensor(9, 16)],
        *(("matmul", (0, 1), {}), ("softmax", (3,), {"axis": -1}), ("matmul", (4, 2), {})),
    )
    for group in (wide, plain((), 1, 40, 16, 16), plain((), 40, 40, 16, 4), plain((), 40, 40, 512, 512)):
        assert lower(group, TARGET) is None
