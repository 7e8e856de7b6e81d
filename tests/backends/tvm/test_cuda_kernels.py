"""Kernels for GPUs, run by the emulation of threads on this processor, against PyTorch in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from cuda_programs import TARGET, Kernels
from kernel_programs import program, tensor, weight

from specc import ops
from specc.backends.tvm.choices import Choices, Value
from specc.backends.tvm.cuda import elements, products, scan
from specc.backends.tvm.cuda.device import Device, device
from specc.backends.tvm.emitter import Template, kernel_of
from specc.backends.tvm.group import Group, Input
from specc.targets import Target

COMPUTED = [
    name
    for name, record in ops.OPERATORS.items()
    if record.scalar or (record.compute and record.operands and name != "convert_layout")
]


def _operators() -> dict[str, Group]:
    found = {}
    for name in COMPUTED:
        record = ops.get(name)
        for seed in range(2):
            types, given = record.example(random.Random(f"{name} {seed}"))
            attrs = ops.complete(record, given)
            first_weight = len(record.call_operands) if record.weights else len(types)
            inputs = [Input(t, frozen=i >= first_weight) for i, t in enumerate(types)]
            found[f"{name}_{seed}"] = program(inputs, (name, range(len(inputs)), attrs))
    return found


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(_operators(), elements.lower, tmp_path_factory.mktemp("operators") / "kernels.so")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", COMPUTED)
def test_every_operator(name: str, seed: int, operators: Kernels) -> None:
    operators.check(f"{name}_{seed}", positive=name == "batch_norm")


def test_a_result_without_elements_is_no_launch() -> None:
    group = program([tensor(0, 5)], ("relu", (0,), {}))
    assert device("empty", kernel_of(group, elements.lower(group, TARGET), TARGET.form), TARGET) == Device("", ())


# ---- products in tiles ----------------------------------------------------------------------------------------------


def conv(
    data: Sequence[int], weights: Sequence[int], *behind: tuple[str, Sequence[int], dict[str, Any]], **attrs: Any
) -> Group:
    """A convolution with a bias, and steps behind it: value 3 is its result."""
    inputs = [tensor(*data), weight(*weights), weight(weights[0])]
    return program(inputs, (f"conv{len(data) - 2}d", (0, 1, 2), attrs), *behind)


PRODUCTS = {
    "pixels": conv((1, 40, 9, 13), (70, 40, 1, 1), ("gelu", (3,), {})),
    "pictures": conv((3, 24, 6, 7), (36, 24, 1, 1), ("relu", (3,), {})),
    "taps": conv((2, 19, 9, 13), (36, 19, 3, 3), ("sigmoid", (3,), {}), ("mul", (3, 4), {}), stride=2, padding=1),
    "even_kernel": conv((1, 16, 12, 12), (32, 16, 2, 4), stride=(2, 4)),
    "groups": conv((2, 32, 9, 8), (48, 16, 3, 3), groups=2, padding=2, dilation=2),
    "row": conv((2, 16, 40), (24, 16, 5), padding=2),
    "voxels": conv((1, 8, 4, 5, 6), (16, 8, 3, 3, 3), padding=1),
    "split": conv((1, 400, 5, 7), (40, 400, 1, 1), ("relu", (3,), {})),
    "linear": program([tensor(3, 17, 50), weight(70, 50), weight(70)], ("linear", (0, 1, 2), {}), ("relu", (3,), {})),
    "linear_of_no_weights": program([tensor(33, 50), tensor(70, 50)], ("linear", (0, 1), {})),
    "broadcast": program([tensor(2, 3, 30, 50), tensor(3, 50, 70)], ("matmul", (0, 1), {}), ("tanh", (2,), {})),
    "residual": program([tensor(65, 40), tensor(40, 33), tensor(33)], ("matmul", (0, 1), {}), ("add", (2, 3), {})),
}


def tiled_product(group: Group, target: Target, **chosen: Value) -> Template | None:
    return products.lower(group, target, Choices(chosen))


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(PRODUCTS, tiled_product, tmp_path_factory.mktemp("products") / "kernels.so")


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str, tiled: Kernels) -> None:
    tiled.check(name)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """A product that no tile divides, in each tile, with and without parts."""
    group = program([tensor(150, 139), weight(140, 139), weight(140)], ("linear", (0, 1, 2), {}), ("silu", (3,), {}))
    chosen = [{"tile": tile.name, "splits": splits} for tile in products.TILES for splits in (1, 2)]
    names = {f"tile_{each['tile']}_{each['splits']}": each for each in chosen}
    given = iter(names.values())

    def lower(group: Group, target: Target) -> Template | None:
        return tiled_product(group, target, **next(given))

    return Kernels(dict.fromkeys(names, group), lower, tmp_path_factory.mktemp("tiles") / "kernels.so")


def test_every_tile(tiles: Kernels) -> None:
    for name in tiles.groups:
        tiles.check(name)


@pytest.mark.parametrize("sizes", [(1, 64, 3136, 128), (1, 512, 49, 1024), (12, 197, 197, 64), (1, 4096, 4096, 4096)])
def test_a_choice_fills_the_gpu_without_waste(sizes: tuple[int, int, int, int]) -> None:
    batch, rows, columns, terms = sizes
    tile, splits = products.choose(sizes, TARGET, Choices())
    assert tile.threads <= 256 and tile.threads % 32 == 0
    assert splits == 1 or terms // splits >= 64
    blocks = batch * -(-rows // tile.rows) * -(-columns // tile.columns) * splits
    assert blocks >= 64
    assert -(-columns // tile.columns) * tile.columns <= 2 * columns


def test_what_is_no_product_or_a_small_one_is_left_to_others() -> None:
    thin = program([tensor(1, 50), weight(70, 50)], ("linear", (0, 1), {}))
    depthwise = program([tensor(1, 40, 9, 9), weight(40, 1, 3, 3)], ("conv2d", (0, 1), {"groups": 40}))
    for group in (thin, depthwise, program([tensor(64, 64)], ("relu", (0,), {}))):
        assert tiled_product(group, TARGET) is None


# ---- scans ----------------------------------------------------------------------------------------------------------


def _cell(seed: int) -> Group:
    record = ops.get("scan")
    types, given = record.example(random.Random(seed))
    attrs = ops.complete(record, given)
    live = len(attrs["body"].inputs)
    inputs = [Input(t, frozen=i >= live and seed % 3 > 0) for i, t in enumerate(types)]
    return program(inputs, ("scan", range(len(inputs)), attrs))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    groups = {f"cell_{seed}": _cell(seed) for seed in range(8)}
    return Kernels(groups, scan.lower, tmp_path_factory.mktemp("scans") / "kernels.so")


@pytest.mark.parametrize("seed", range(8))
def test_scans(seed: int, scans: Kernels) -> None:
    (launch,) = scans.devices[f"cell_{seed}"].launches
    assert launch.blocks == 1
    scans.check(f"cell_{seed}")
