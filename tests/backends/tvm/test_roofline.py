"""The roofs: what their loops compute, and for which types of factors a target has one."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from emulation import processor

from specc.backends.tvm import roofline
from specc.backends.tvm.kernels import amx
from specc.targets import TARGETS, find

TILES = TARGETS["x86-64-v4-amx"]


@pytest.mark.parametrize(("element", "dtype"), [("bfloat16", "float32"), ("uint8", "int32")])
def test_the_roof_multiplies_tiles(
    element: str, dtype: str, matrix_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One factor of each 32 bits is 2 in both tiles, all others are 0."""
    monkeypatch.setattr(roofline, "_TILE_STEPS", 10)
    multiply = roofline._compiled(processor.able(TILES), roofline._multiply_tiles(element))
    values = np.zeros((1 + roofline._TILES, amx.ROWS, amx.ROWS), dtype)
    values[0] = 2
    tiles = tvm.runtime.tensor(values)
    multiply(tiles)
    assert (tiles.numpy()[1:] == 10 * amx.ROWS * 2 * 2).all()


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("x86-64-v4", []),
        ("x86-64-v4-vnni", ["uint8"]),
        ("x86-64-v4-bf16", ["uint8", "bfloat16"]),
        ("x86-64-v4-amx", ["bfloat16", "uint8"]),
        ("neoverse-n1", ["float16", "uint8"]),
    ],
)
def test_every_type_that_the_target_multiplies_has_a_roof(
    name: str, others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of tiles where it has tiles. Nothing is compiled, nothing runs, and every call counts a second."""
    monkeypatch.setattr(roofline, "_compiled", lambda target, function: function)
    monkeypatch.setattr(roofline, "_ARRAY", 1 << 10)
    monkeypatch.setattr(roofline._Team, "rate", lambda team, work, amount: float(amount))
    target = TARGETS[name]
    found = roofline.Meter(target, 1).measure()
    vectors = 2 * roofline._STEPS * roofline._VECTORS * target.lanes
    tiles = 2 * roofline._TILE_STEPS * roofline._TILES * amx.ROWS * amx.ROWS
    amounts = {"float16": 2 * vectors, "uint8": 4 * vectors, "bfloat16": 2 * vectors}
    if target.tile_product:
        amounts |= {"bfloat16": 32 * tiles, "uint8": 64 * tiles}
    if target.half_sums:
        others = ["float16", *(element for element in others if element != "float16")]
    assert found.operations == vectors
    assert found.others == tuple((element, amounts[element]) for element in others)


def test_the_roof_multiplies_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """In twice the lanes of float32; where the processor has no such products, LLVM widens them."""
    monkeypatch.setattr(roofline, "_STEPS", 10)
    target = find("native")
    multiply = roofline._compiled(target, roofline._multiply(target, "float16"))
    sums = tvm.runtime.tensor(np.ones(2 * target.lanes, np.float16))
    multiply(sums)
    assert (sums.numpy() == sum(range(roofline._VECTORS)) + 10 * roofline._VECTORS).all()
