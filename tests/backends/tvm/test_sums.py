"""Sums of float16 on x86: kernels add up what the judge says, and their hot loops keep all sums in registers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulation import processor
from kernel_programs import draw, execute, program, weight

from specc import targets
from specc.backends.torch import runs
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import half
from specc.backends.tvm.library import compile_kernel
from specc.disassembly import disassemble
from specc.ir.types import TensorType
from specc.static_profile import hot_loops

_BASE = targets.TARGETS["x86-64-v4"]
TARGET = replace(
    _BASE, features=(*_BASE.features, "+avx512fp16"), requires=(*_BASE.requires, "avx512_fp16"), l2_bytes=2 << 20
)
"""A processor with float16 of AVX-512, and without tiles."""


def operand(*shape: int, layout: str = "", frozen: bool = False) -> Input:
    return Input(TensorType(shape, "float16", layout), frozen)


def convolved(shape: tuple[int, ...], out: int, kernel: tuple[int, int], attrs: dict[str, Any]) -> Group:
    x, w = operand(*shape, layout=TARGET.blocked_layout), operand(out, shape[1], *kernel, frozen=True)
    return program([x, w, weight(out)], ("conv2d", [0, 1, 2], attrs))


def multiplied(rows: int, inputs: int, outputs: int) -> Group:
    x, w = operand(rows, inputs), operand(outputs, inputs, frozen=True)
    return program([x, w, weight(outputs)], ("linear", [0, 1, 2], {}))


GROUPS = {
    "1x1": convolved((1, 44, 13, 12), 72, (1, 1), {}),
    "3x3": convolved((1, 30, 14, 13), 40, (3, 3), {"stride": 2, "padding": [1, 0, 1, 0]}),
    "1x4": convolved((2, 16, 13, 12), 44, (1, 4), {"stride": [1, 2], "padding": [0, 1, 0, 1]}),
    "rows": multiplied(30, 76, 96),
    "one row": multiplied(1, 500, 416),
}
"""Channels, rows and terms that fill neither blocks nor vectors nor tiles nor runs."""


@pytest.mark.parametrize("name", GROUPS)
def test_sums_are_those_of_the_judge(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds after every term, everywhere; sums of float32 are others. A processor without such sums has them
    emulated.
    """
    monkeypatch.setattr(runs, "PLACES", 1 << 20)
    group = GROUPS[name]
    (step,), arrays = group.steps, draw(group)
    with processor.running(TARGET) as computed:
        (found,) = execute(_kernel(group), group, arrays, TARGET)
        assert (computed(False) > 0) == bool(processor.missing(TARGET))
    operands = [torch.tensor(array, dtype=torch.float64) for array in arrays]
    expected = runs.layer(step.record.torch, operands, step.attrs).numpy()
    exact = step.record.torch(*operands, **step.attrs).numpy()
    scale = np.abs(exact).max()
    assert np.abs(found - expected).max() < 1e-6 * scale
    assert (np.abs(found - exact) > 1e-5 * scale).mean() > 0.9


@pytest.mark.skipif(not any(map(shutil.which, ("llvm-objdump", "llvm-objdump-19"))), reason="needs llvm-objdump")
@pytest.mark.parametrize(
    "group, products",
    [
        (convolved((1, 64, 28, 28), 64, (3, 3), {"padding": 1}), 4 * 3 * 10 * 2),
        (convolved((1, 64, 28, 28), 64, (1, 1), {}), 4 * 14 * 2),
        (multiplied(197, 384, 1536), 4 * 9 * 3),
    ],
)
def test_hot_loops_spill_nothing(group: Group, products: int, tmp_path: Path) -> None:
    """All sums of a tile stay in registers, with inputs of four channels and all columns of a window written out."""
    function = _kernel(group).function.with_attr("global_symbol", "kernel")
    made = compile_kernel(function, "kernel", TARGET, tmp_path).read_bytes()
    loops = [loop.own() for loop in hot_loops(disassemble(made, TARGET, ["kernel"])["kernel"], TARGET)]
    names = [[str(one.mnemonic) for one in loop] for loop in loops]
    most = max(range(len(loops)), key=lambda number: names[number].count("vfmadd231ph"))
    assert products * 0.9 < names[most].count("vfmadd231ph") <= products
    spilled = [one for one in loops[most] if "zmm" in one.text and "%rsp" in one.text]
    assert len(spilled) < 0.02 * products


def _kernel(group: Group) -> Any:
    lower = half.linear if group.steps[0].op == "linear" else half.convolution
    template = lower(group, TARGET, Choices())
    assert template is not None
    return kernel_of(group, template, conversions=TARGET.conversions)
