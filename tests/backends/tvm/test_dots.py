"""Dot products of integers for cores that are not here: what is read for them, and what their inner loops are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_programs import program

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import integer
from specc.backends.tvm.kernels.dots import runs
from specc.backends.tvm.library import compile_kernel
from specc.backends.tvm.packing import Packing
from specc.disassembly import disassemble
from specc.ir.types import TensorType
from specc.static_profile import count, hot_loops
from specc.targets import TARGETS, Target


@pytest.mark.parametrize("offsets", [[0], [3, 4], range(7), range(2, 15), range(0, 19, 2), range(0, 30, 3), [0, 9]])
def test_runs_cover_all_offsets_and_nothing_beyond(offsets: Any) -> None:
    found = runs(offsets, 4)
    assert [offset for _, _, inside in found for offset in inside] == list(offsets)
    for start, size, inside in found:
        assert offsets[0] <= start and start + size - 1 <= offsets[-1]
        assert all(start <= offset < start + size for offset in inside)
        assert size in (1, 2, 4)
    assert len(found) <= len(offsets)


def test_lowered_weights_begin_with_their_sums() -> None:
    weight = np.random.default_rng(0).integers(-128, 128, (6, 5, 3, 2), np.int8)
    plain, lowered = Packing("dot", 4, 4).apply(weight), Packing("lowered", 4, 4).apply(weight)
    assert plain.shape == (2, 2 * 3 * 2, 16) and lowered.shape == (2, 13, 16)
    assert np.array_equal(lowered[:, 1:], plain)
    sums = lowered[:, 0].copy().view("<i4").reshape(-1)
    assert np.array_equal(sums[:6], 128 * weight.sum((1, 2, 3), dtype=np.int32)) and not sums[6:].any()


def convolution(target: Target, stride: int, kernel: int) -> Group:
    inputs = [
        Input(TensorType((1, 64, 28, 28), "uint8", target.blocked_layout)),
        Input(TensorType((64, 64, kernel, kernel), "int8"), frozen=True),
    ]
    return program(inputs, ("conv2d_integer", (0, 1), {"stride": stride, "padding": kernel // 2}))


def linear(rows: int) -> Group:
    inputs = [Input(TensorType((rows, 192), "uint8")), Input(TensorType((256, 192), "int8"), frozen=True)]
    return program(inputs, ("linear_integer", (0, 1), {}))


@pytest.mark.skipif(not any(map(shutil.which, ("llvm-mca", "llvm-mca-19"))), reason="needs llvm-mca (make arm-test)")
@pytest.mark.parametrize("target", ["cortex-a76", "neoverse-v1"])
@pytest.mark.parametrize("work", ["3x3", "3x3 with stride 2", "1x1", "197 rows", "1 row"])
def test_inner_loops_multiply_nearly_all_the_time(target: str, work: str, tmp_path: Path) -> None:
    """By llvm-mca's count; so nothing is spilled, and few activations are moved. One row waits for its weights."""
    machine = TARGETS[target]
    group, lowering = {
        "3x3": (convolution(machine, 1, 3), integer.convolution),
        "3x3 with stride 2": (convolution(machine, 2, 3), integer.convolution),
        "1x1": (convolution(machine, 1, 1), integer.convolution),
        "197 rows": (linear(197), integer.linear),
        "1 row": (linear(1), integer.linear),
    }[work]
    template = lowering(group, machine, Choices())
    assert template is not None
    function = kernel_of(group, template).function.with_attr("global_symbol", "kernel")
    made = compile_kernel(function, "kernel", machine, tmp_path).read_bytes()
    loops = [loop.own() for loop in hot_loops(disassemble(made, machine, ["kernel"])["kernel"], machine)]
    hot = max(count(loops, machine, machine.model or machine.cpu), key=lambda loop: loop.macs)
    assert hot.peak == {"cortex-a76": 32, "neoverse-v1": 64}[target]
    assert hot.rate > (0.65 if work == "1 row" else 0.83) * hot.peak
