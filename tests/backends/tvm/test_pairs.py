"""Products of bfloat16 in pairs: kernels of `x86-64-v4-bf16` as LLVM makes them, run and counted; those of
`neoverse-v1` counted (`tests/deploy/test_emulated.py` runs them).

Where the processor has AVX-512 and not this instruction, a signal's handler computes it (`tests/emulation/processor`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from emulation import processor
from kernel_programs import check, execute, program, weight

import specc
from specc import targets
from specc.backends.tvm import roofline
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import convolution, linear
from specc.backends.tvm.library import compile_kernel
from specc.diagnostics import SpeccError
from specc.disassembly import disassemble
from specc.ir.types import TensorType
from specc.model import Model
from specc.static_profile import LoopCount, count, hot_loops

TARGET = targets.TARGETS["x86-64-v4-bf16"]
MISSING = processor.missing(TARGET)
ROUNDING = 2.0**-7
ROUNDED = replace(TARGET, features=tuple(feature for feature in TARGET.features if feature != "+avx512bf16"))
"""One whose kernels round to bfloat16 in integers."""
EXAMPLES = Path(__file__).parents[3] / "examples"


def half(*shape: int, layout: str = "", frozen: bool = False) -> Input:
    return Input(TensorType(shape, "bfloat16", layout), frozen)


@pytest.fixture
def emulated() -> Iterator[None]:
    """Computes the instruction where the processor does not, and sees to it that there were some."""
    with processor.running(TARGET) as computed:
        yield
        assert (computed(False) > 0) == ("avx512_bf16" in MISSING)


@pytest.fixture
def widened() -> Iterator[None]:
    """Sees to it that there are none."""
    with processor.running(TARGET) as computed:
        yield
        assert computed(False) == 0


def convolved(shape: tuple[int, ...], out: int, kernel: tuple[int, int], attrs: dict[str, Any], act: str) -> Group:
    """A convolution that reads 16 bits, adds a tensor of 16 bits and writes 16 bits."""
    x, w = half(*shape, layout=TARGET.blocked_layout), half(out, shape[1], *kernel, frozen=True)
    base = program([x, w, weight(out)], ("conv2d", [0, 1, 2], attrs))
    other = half(*base.result.concrete, layout=base.result.layout)
    steps = ("conv2d", [0, 1, 2], attrs), ("add", [4, 3], {}), (act, [5], {}), ("cast", [6], {"dtype": "bfloat16"})
    return program([x, w, weight(out), other], *steps)


@pytest.mark.parametrize(
    "shape, out, kernel, attrs, act",
    [
        ((1, 32, 9, 9), 48, (1, 1), {}, "relu"),
        ((1, 35, 7, 5), 33, (1, 1), {}, "gelu"),
        ((1, 24, 8, 9), 33, (3, 3), {"padding": 1}, "relu"),
        ((2, 17, 9, 7), 20, (3, 2), {"padding": [0, 1, 3, 2], "stride": 2}, "relu"),
        ((1, 16, 9, 9), 16, (3, 3), {"padding": 2, "dilation": 2}, "relu"),
    ],
)
def test_convolutions(shape: Any, out: int, kernel: Any, attrs: dict[str, Any], act: str, emulated: None) -> None:
    check(convolved(shape, out, kernel, attrs, act), convolution.lower, TARGET, ROUNDING)


@pytest.mark.parametrize("rows, inputs, outputs, act", [(1, 50, 70, "relu"), (9, 34, 33, "gelu"), (5, 96, 16, "relu")])
def test_linear_layers(rows: int, inputs: int, outputs: int, act: str, emulated: None) -> None:
    group = program(
        [half(rows, inputs), half(outputs, inputs, frozen=True), weight(outputs), half(rows, outputs)],
        ("linear", [0, 1, 2], {}),
        (act, [4], {}),
        ("add", [5, 3], {}),
    )
    check(group, linear.lower, TARGET, 2e-6)


def test_factors_can_be_widened_in_place_of_that(widened: None) -> None:
    """A choice that a measurement may make: without the instruction."""
    group = convolved((1, 35, 7, 5), 33, (1, 1), {}, "relu")
    check(group, convolution.lower, ROUNDED, ROUNDING, configuration={"pairs": False})
    group = program([half(3, 34), half(20, 34, frozen=True)], ("linear", [0, 1], {}))
    check(group, linear.lower, TARGET, configuration={"pairs": False})


def test_an_odd_number_of_inputs_is_widened(widened: None) -> None:
    check(program([half(3, 33), half(20, 33, frozen=True)], ("linear", [0, 1], {})), linear.lower, TARGET)


def test_each_sum_is_that_of_the_manual(emulated: None) -> None:
    """The second product of a pair is added first, each sum rounds once, and numbers below 2^-126 count as 0."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 64)), rng.standard_normal((16, 64))
    x[0, :8] = [2.0**-127, 1, -(2.0**-130), 3, 2.0**-70, 2.0**-60, 1e30, -1e30]
    w[:, :8] = [1, 2.0**-128, 2.0**100, 2, 2.0**-70, 2.0**-60, 1e8, 1e8]
    group = program([half(1, 64), half(16, 64, frozen=True)], ("linear", [0, 1], {}))
    arrays = [(np.float32(a).view(np.uint32) & 0xFFFF0000).view(np.float32) for a in (x, w)]
    template = linear.lower(group, TARGET, Choices())
    assert template is not None
    (result,) = execute(kernel_of(group, template, conversions=TARGET.conversions), group, arrays, TARGET)

    def flushed(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.where(np.abs(a) < 2.0**-126, np.copysign(0, a), a).astype(np.float32)

    sums = np.zeros(16, np.float32)
    for pair in range(32):
        for k in (2 * pair + 1, 2 * pair):
            factors = flushed(arrays[0][0, k : k + 1]), flushed(arrays[1][:, k])
            sums = flushed((sums.astype(np.longdouble) + np.longdouble(factors[0]) * factors[1]).astype(np.float32))
    assert np.array_equal(result[0], sums)


def test_the_roof_multiplies_pairs(emulated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_STEPS", 10)
    multiply = roofline._compiled(TARGET, roofline._multiply_pairs(TARGET))
    factors = tvm.runtime.tensor(np.full((2, TARGET.lanes), 2.0, np.float32))
    multiply(factors)
    begin = sum(range(roofline._VECTORS))  # the lower half of these words is zero
    assert (factors.numpy()[1] == begin + 10 * roofline._VECTORS * 4.0).all()


def test_a_network_is_refused_or_computed(emulated: None, tmp_path: Path) -> None:
    """By who reads the file and by the library itself; made as if every processor with AVX-512 were one, it is run."""
    graph = specc.load(EXAMPLES / "digits.specc")
    artifact = specc.compile(graph, target=processor.able(TARGET), precision="bf16")
    assert artifact.manifest.facts["precision"]["layers"] == 3
    artifact.self_test()
    if "avx512_bf16" in MISSING:
        real = specc.compile(graph, target=TARGET, precision="bf16")
        real.save(tmp_path / "real.artifact")
        with pytest.raises(SpeccError, match=r"lacks .*avx512_bf16"):
            specc.open(tmp_path / "real.artifact")
        with pytest.raises(SpeccError, match="extension"):
            Model(real.contents.library, real.contents.weights)


@pytest.mark.skipif(not any(map(shutil.which, ("llvm-objdump", "llvm-objdump-19"))), reason="needs llvm-objdump")
@pytest.mark.parametrize(
    ("work", "products"), [("3x3", 48), ("3x3 with stride 2", 48), ("1x1", 56), ("197 rows", 96), ("1 row", 32)]
)
def test_inner_loops_multiply_pairs_and_spill_nothing(work: str, products: int, tmp_path: Path) -> None:
    """Each vector of weights and each pair of activations is read once for a step of the register tile."""
    group, lowering = layer(work, TARGET)
    template = lowering(group, TARGET, Choices())
    assert template is not None
    function = kernel_of(group, template).function.with_attr("global_symbol", "kernel")
    made = compile_kernel(function, "kernel", TARGET, tmp_path).read_bytes()
    loops = [loop.own() for loop in hot_loops(disassemble(made, TARGET, ["kernel"])["kernel"], TARGET)]
    assert not any(name.startswith("vfmadd") for loop in loops for name in map(mnemonic, loop))
    loop = next(loop for loop in loops if list(map(mnemonic, loop)).count("vdpbf16ps") == products)
    assert not any("%rsp" in instruction.text for instruction in loop)
    reads = [one.text for one in loop if "(" in one.text and not one.text.startswith(("lea", "prefetch"))]
    assert len(reads) <= (products + 4 if work == "1 row" else products * 2 // 3)


@pytest.mark.skipif(not any(map(shutil.which, ("llvm-mca", "llvm-mca-19"))), reason="needs llvm-mca (make arm-test)")
@pytest.mark.parametrize("work", ["3x3", "3x3 with stride 2", "1x1", "197 rows", "1 row"])
def test_inner_loops_for_arm_multiply_nearly_all_the_time(work: str, tmp_path: Path) -> None:
    """By llvm-mca's count, of 32 in a cycle; one row waits for its weights."""
    machine = targets.TARGETS["neoverse-v1"]
    (hot,) = sorted(counted(work, machine, tmp_path), key=lambda loop: loop.macs)[-1:]
    assert hot.peak == 32
    assert hot.rate > (0.45 if work == "1 row" else 0.95) * hot.peak


def counted(work: str, machine: targets.Target, folder: Path) -> list[LoopCount]:
    """The counts of the hot loops of a layer's kernel."""
    group, lowering = layer(work, machine)
    template = lowering(group, machine, Choices())
    assert template is not None
    function = kernel_of(group, template, conversions=machine.conversions).function.with_attr("global_symbol", "kernel")
    made = compile_kernel(function, "kernel", machine, folder).read_bytes()
    loops = hot_loops(disassemble(made, machine, ["kernel"])["kernel"], machine)
    return count([loop.own() for loop in loops], machine, machine.cpu)


def layer(work: str, machine: targets.Target) -> tuple[Group, Any]:
    """A layer of bfloat16 by what it is called, and what lowers it."""
    if work.endswith(("row", "rows")):
        inputs = [half(int(work.split()[0]), 192), half(256, 192, frozen=True)]
        return program(inputs, ("linear", (0, 1), {})), linear.lower
    kernel, stride = {"3x3": (3, 1), "3x3 with stride 2": (3, 2)}.get(work, (1, 1))
    inputs = [half(1, 64, 56, 56, layout=machine.blocked_layout), half(64, 64, kernel, kernel, frozen=True)]
    return program(inputs, ("conv2d", (0, 1), {"stride": stride, "padding": kernel // 2})), convolution.lower


def mnemonic(instruction: Any) -> str:
    return str(instruction.mnemonic)
