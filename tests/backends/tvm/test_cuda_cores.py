"""Products of 16 bits on tensor cores: as the emulation computes them, and the machine code that NVRTC makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cuda_programs import TARGET, Kernels
from emulation.machine_code import instructions, usage
from kernel_programs import program, tensor, weight

from specc import targets
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import core_tiles, cores, nvrtc
from specc.backends.tvm.cuda.core_tiles import TILES, held
from specc.backends.tvm.cuda.occupancy import SHARED
from specc.backends.tvm.cuda.program import text
from specc.backends.tvm.emitter import Template
from specc.backends.tvm.group import Group, Input
from specc.ir.types import TensorType
from specc.targets import Target

GPUS = [target for target in targets.TARGETS.values() if target.gpu]


def half(*shape: int, frozen: bool = False, dtype: str = "float16") -> Input:
    return Input(TensorType(shape, dtype), frozen)


def conv(
    data: Sequence[int],
    weights: Sequence[int],
    *behind: tuple[str, Sequence[int], dict[str, Any]],
    frozen: bool = True,
    dtype: str = "float16",
    **attrs: Any,
) -> Group:
    """A convolution with a bias in float32, and steps behind it: value 3 is its result."""
    inputs = [half(*data, dtype=dtype), half(*weights, frozen=frozen, dtype=dtype), weight(weights[0])]
    return program(inputs, (f"conv{len(data) - 2}d", (0, 1, 2), attrs), *behind)


def rounded(number: int, dtype: str = "float16") -> tuple[str, Sequence[int], dict[str, Any]]:
    return "cast", (number,), {"dtype": dtype}


def lower(group: Group, target: Target, **chosen: Value) -> Template | None:
    return cores.lower(group, target, Choices(chosen))


PRODUCTS = {
    "runs_of_8_pixels": conv((1, 40, 8, 9), (70, 40, 1, 1), ("gelu", (3,), {}), rounded(4)),
    "runs_of_4_pixels": conv((3, 24, 6, 6), (36, 24, 1, 1), rounded(3, "bfloat16"), dtype="bfloat16"),
    "runs_of_2_pixels": conv((1, 24, 6, 11), (36, 24, 1, 1)),
    "an_odd_number_of_pixels": conv((1, 24, 7, 7), (36, 24, 1, 1), ("relu", (3,), {}), rounded(4)),
    "taps": conv((2, 19, 9, 13), (36, 19, 3, 3), ("sigmoid", (3,), {}), ("mul", (3, 4), {}), stride=2, padding=1),
    "every_other_pixel": conv((2, 24, 9, 13), (36, 24, 1, 1), stride=2),
    "padded_by_one_tap": conv((1, 16, 6, 8), (16, 16, 1, 1), padding=1),
    "even_kernel": conv((1, 16, 12, 12), (32, 16, 2, 4), stride=(2, 4)),
    "weights_that_vary": conv((1, 20, 9, 8), (36, 20, 3, 3), padding=1, frozen=False),
    "groups": conv((2, 32, 9, 8), (48, 16, 3, 3), groups=2, padding=2, dilation=2, dtype="bfloat16"),
    "groups_of_pixels": conv((1, 24, 4, 8), (32, 12, 1, 1), groups=2),
    "row": conv((2, 16, 40), (24, 16, 5), padding=2),
    "voxels": conv((1, 8, 4, 5, 6), (16, 8, 3, 3, 3), padding=1),
    "linear": program(
        [half(3, 17, 50), half(70, 50, frozen=True), weight(70)], ("linear", (0, 1, 2), {}), ("relu", (3,), {})
    ),
    "linear_of_odd_rows": program([half(3, 17, 51), half(70, 51)], ("linear", (0, 1), {})),
    "broadcast": program([half(2, 3, 30, 50), half(3, 50, 70)], ("matmul", (0, 1), {}), ("tanh", (2,), {})),
    "odd_rows": program([half(65, 41), half(41, 33), tensor(33)], ("matmul", (0, 1), {}), ("add", (2, 3), {})),
    "residual": program(
        [half(40, 32, dtype="bfloat16"), half(64, 32, frozen=True, dtype="bfloat16"), half(40, 64, dtype="bfloat16")],
        *(("linear", (0, 1), {}), ("add", (3, 2), {}), rounded(4, "bfloat16")),
    ),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(PRODUCTS, lower, tmp_path_factory.mktemp("cores") / "kernels.so")


def rounding(group: Group) -> float:
    """What a result may differ by: sums in float32, which may round to the number of 16 bits beside."""
    return {"float16": 2**-10, "bfloat16": 2**-7}.get(group.result.dtype, 3e-6)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str, kernels: Kernels) -> None:
    kernels.check(name, tolerance=rounding(PRODUCTS[name]))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """A product that no tile divides, in each tile, and in parts."""

    def group(terms: int) -> Group:
        inputs = [half(150, terms), half(140, terms, frozen=True), weight(140)]
        return program(inputs, ("linear", (0, 1, 2), {}), ("relu", (3,), {}), rounded(4))

    chosen = {tile.name: {"tile": tile.name, "splits": 1} for tile in TILES} | {
        "64x64_2": {"tile": "64x64", "splits": 2}
    }
    given = iter(chosen.values())
    return Kernels(
        {f"tile_{name}": group(260 if each["splits"] == 2 else 100) for name, each in chosen.items()},
        lambda group, target: lower(group, target, **next(given)),
        tmp_path_factory.mktemp("tiles") / "kernels.so",
    )


def test_every_tile(tiles: Kernels) -> None:
    for name in tiles.groups:
        tiles.check(name, tolerance=2**-10)


# ---- machine code ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC: pip install nvidia-cuda-nvrtc-cu12")
@pytest.mark.parametrize("gpu", GPUS, ids=lambda target: target.gpu)
def test_machine_code_multiplies_on_tensor_cores_from_registers(gpu: Target, tiles: Kernels, kernels: Kernels) -> None:
    others = kernels.devices if gpu == TARGET else {}
    looked_at = {name: device for name, device in tiles.devices.items() if gpu == TARGET or "128" in name}
    made = nvrtc.cubin(text({**looked_at, **others}), gpu)
    used = usage(made)
    code = instructions(made)
    for name in looked_at:
        tile = next(tile for tile in TILES if tile.name == name.split("_")[1])
        (function,) = (each.function for each in tiles.devices[name].launches if "HMMA" in code[each.function])
        assert used[function].stack == 0 and used[function].registers <= 128
        assert used[function].shared <= SHARED + 1024
        counts = code[function]
        assert counts["LDSM"] and counts["LDGSTS"] and counts["LDGDEPBAR"] and counts["DEPBAR"]
        assert not {"LDL", "STL"} & counts.keys()
        step = tile.down // 16 * (tile.across // 8) * (core_tiles.STEP // 16)
        assert counts["HMMA"] % step == 0, "all of a warp's products, however often the loop is unrolled"
        assert counts["LDSM"] * step == counts["HMMA"] * (tile.down + tile.across) // 16 * (core_tiles.STEP // 16)
    for name, device in others.items():
        assert any("HMMA" in code[launch.function] for launch in device.launches), name


# ---- choices ---------------------------------------------------------------------------------------------------------


def test_a_multiprocessor_holds_a_block_of_each_tile() -> None:
    for tile in TILES:
        assert tile.threads % 32 == 0 and tile.threads <= 256 and tile.shared <= SHARED
        assert held(tile) >= 2, "while one block waits, another one multiplies"


@pytest.mark.parametrize("gpu", GPUS, ids=lambda target: target.gpu)
def test_choices(gpu: Target) -> None:
    def chosen(*sizes: int) -> tuple[str, int]:
        tile, splits = core_tiles.choose(sizes, gpu, Choices())
        return tile.name, splits

    assert chosen(1, 4096, 4096, 4096) == ("128x128", 1), "what fills the GPU has the tile with most products a byte"
    assert chosen(1, 64, 64, 4096)[1] > 1, "few results with many terms are split"
    assert chosen(1, 64, 12544, 64)[1] == 1, "many results with few terms are not"
    choices = Choices({"tile": "32x64", "splits": 2})
    assert core_tiles.choose((1, 512, 512, 512), gpu, choices)[0].name == "32x64"
    assert [choice.name for choice in choices.space] == ["tile", "splits"]


def test_what_is_not_of_16_bits_on_both_sides_or_small_is_left_to_others() -> None:
    wide = program([half(64, 64), Input(TensorType((64, 64)), True)], ("linear", (0, 1), {}))
    plain = program([tensor(64, 64), weight(64, 64)], ("linear", (0, 1), {}))
    thin = program([half(1, 64), half(64, 64, frozen=True)], ("linear", (0, 1), {}))
    both = program([half(64, 64), half(64, 64, dtype="bfloat16")], ("matmul", (0, 1), {}))
    depthwise = program([half(1, 40, 9, 9), half(40, 1, 3, 3, frozen=True)], ("conv2d", (0, 1), {"groups": 40}))
    for group in (wide, plain, thin, both, depthwise):
        assert lower(group, TARGET) is None
