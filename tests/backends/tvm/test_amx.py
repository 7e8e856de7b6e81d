"""The tiles of AMX (`kernels/amx.py`): kernels of single instructions against NumPy, bit by bit.

They run where the processor lacks AMX, too (`tests/emulation/processor`). Where it has AMX, this file is run a second
time in a process that Linux gives no tiles.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from emulation import processor
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

import specc
from specc import targets
from specc.backends.tvm.kernels import amx
from specc.backends.tvm.library import tvm_target
from specc.backends.tvm.translation import translate
from specc.diagnostics import SpeccError
from specc.ir.array import Array
from specc.ir.bits import of_bits, to_bits
from specc.model import Model
from specc.targets import Target

TARGET = targets.TARGETS["x86-64-v4-amx"]
MISSING = processor.missing(TARGET)
EXAMPLES = Path(__file__).parents[3] / "examples"
TASKS, STEPS, WIDTH = 5, 3, 24
"""Products side by side in threads, tiles of the reduction of each, and columns that results lie in."""


def run(target: Target, arrays: dict[str, Array], write: Callable[..., None]) -> None:
    """Runs on arrays a kernel whose lines `write` writes, given a buffer for each of the arrays."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        write(*(T.arg(name, T.buffer(array.shape, str(array.dtype))) for name, array in arrays.items()))
    kernel = translate({"kernel": builder.get()}, tvm_target(target))["kernel"]
    tensors = [tvm.runtime.tensor(array) for array in arrays.values()]
    kernel(*tensors)
    for array, tensor in zip(arrays.values(), tensors, strict=True):
        array[...] = tensor.numpy()


def test_a_tile_is_loaded_and_stored(matrix_tiles: Target) -> None:
    """Each of them, with rows at any distance, from any place."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (amx.TILES, 20, 96), np.uint8)
    goal = np.full((amx.TILES, 18, 80), 7, np.uint8)

    def write(source: Any, goal: Any) -> None:
        with amx.configured():
            for tile in range(amx.TILES):
                amx.load(tile, source, (tile, 3, tile), 96)
            for tile in range(amx.TILES):
                amx.store(tile, goal, (tile, 1, 2 * tile), 80)

    run(matrix_tiles, {"source": source, "goal": goal}, write)
    expected = np.full_like(goal, 7)
    for tile in range(amx.TILES):
        expected[tile, 1:17, 2 * tile :][:, :64] = source[tile, 3:19, tile:][:, :64]
    assert np.array_equal(goal, expected)


def test_a_tile_becomes_zero(matrix_tiles: Target) -> None:
    ones, goal = np.ones((16, 64), np.uint8), np.full((2, 16, 64), 7, np.uint8)

    def write(ones: Any, goal: Any) -> None:
        with amx.configured():
            for tile in range(amx.TILES):
                amx.load(tile, ones, (0, 0), 64)
            amx.zero(3)
            for number, tile in enumerate((3, 4)):
                amx.store(tile, goal, (number, 0, 0), 64)

    run(matrix_tiles, {"ones": ones, "goal": goal}, write)
    assert not goal[0].any() and (goal[1] == 1).all()


@pytest.mark.parametrize("dtype, factors", [("uint8", "int8"), ("bfloat16", "bfloat16")])
def test_products(dtype: str, factors: str, matrix_tiles: Target) -> None:
    """In several threads, which have tiles of their own: sums that begin with what was there."""
    rng = np.random.default_rng(0)
    depth = amx.DEPTHS[dtype]
    x = stored(rng, (TASKS, amx.ROWS, STEPS * depth), dtype)
    w = stored(rng, (TASKS, STEPS, amx.ROWS, depth), factors)
    begin = rng.integers(-9, 9, (TASKS, amx.ROWS, WIDTH))
    sums = begin.astype(np.int32 if dtype == "uint8" else np.float32)
    expected = sums.copy()
    made = numpy_products(dtype, x, w, sums[..., : amx.ROWS])
    expected[..., : amx.ROWS] = made

    def write(x: Any, w: Any, sums: Any) -> None:
        with T.parallel(0, TASKS) as task, amx.configured():
            amx.load(2, sums, (task, 0, 0), 4 * WIDTH)
            with T.serial(0, STEPS) as step:
                amx.load(0, x, (task, 0, step * depth), STEPS * amx.BYTES)
                amx.load(7, w, (task, step, 0, 0), amx.BYTES)
                amx.multiply(dtype, 2, 0, 7)
            amx.store(2, sums, (task, 0, 0), 4 * WIDTH)

    run(matrix_tiles, {"x": x, "w": w, "sums": sums}, write)
    assert np.array_equal(sums, expected)


def stored(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Integers of the whole range; bfloat16 as its bits, among them some whose products are below 2^-126."""
    if dtype != "bfloat16":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    values = rng.standard_normal(shape) * np.where(rng.integers(8, size=shape) == 0, 2.0**-64, 1)
    values[..., ::7] *= 2.0**-64
    return to_bits(values.astype(np.float32), dtype)


def numpy_products(dtype: str, x: Array, w: Array, sums: Array) -> Array:
    """`sums` and the products, as Intel's manual says; weights lie in pairs or in fours of the reduction.

    Sums of bfloat16 begin anew in each step, those of first factors apart from those of second ones.
    """
    tasks = range(len(x))
    if dtype == "uint8":
        plain = w.reshape(TASKS, STEPS, 16, 16, 4).transpose(0, 1, 2, 4, 3).reshape(TASKS, -1, 16)
        return sums + np.stack([x[task].astype(np.int32) @ plain[task].astype(np.int32) for task in tasks])
    left = flushed(of_bits(x, dtype)).reshape(TASKS, 16, STEPS, 16, 2)
    right = flushed(of_bits(w, dtype)).reshape(TASKS, STEPS, 16, 16, 2)
    for step in range(STEPS):
        parts = np.zeros((2, *sums.shape), np.float32)
        for pair in range(16):
            for part in range(2):
                product = np.longdouble(left[:, :, step, pair, None, part]) * right[:, step, pair, None, :, part]
                parts[part] = flushed(parts[part] + product)
        sums = flushed(sums + flushed(parts[0] + parts[1]))
    return sums


def flushed(values: Array) -> Array:
    """As float32, with zeros for what is below 2^-126."""
    rounded = values.astype(np.float32)
    return np.where(np.abs(rounded) < 2.0**-126, np.float32(0), rounded)


def test_a_network_is_refused_or_computed(matrix_tiles: Target, tmp_path: Path) -> None:
    """By who reads the file and by the library itself, which asks Linux for the tiles."""
    graph = specc.load(EXAMPLES / "digits.specc")
    with processor.running(TARGET) as computed:
        specc.compile(graph, target=matrix_tiles, precision="bf16").self_test()
        assert (computed(True) > 0) == ("amx_tile" in MISSING)
    real = specc.compile(graph, target=TARGET, precision="bf16")
    real.save(tmp_path / "real.artifact")
    if not MISSING:
        specc.open(tmp_path / "real.artifact").self_test()
        return
    with pytest.raises(SpeccError, match=r"lacks .*amx_tile"):
        specc.open(tmp_path / "real.artifact")
    with pytest.raises(SpeccError, match="extension"):
        Model(real.contents.library, real.contents.weights)


def test_all_of_them_are_emulated(request: pytest.FixtureRequest) -> None:
    """Another process, whose tiles are computed by the handler, comes to the same."""
    if processor.TILES & MISSING:
        pytest.skip("the processor lacks tiles: the tests above ran emulated")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", "--without-amx", __file__]
    done = subprocess.run(command, cwd=Path(request.config.rootpath), capture_output=True, text=True)
    assert done.returncode == 0 and "5 passed, 1 skipped" in done.stdout, done.stdout
