"""Numbers of 16 bits: conversions equal numpy's and PyTorch's in every bit, and kernels read and write them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulation import processor
from kernel_programs import NATIVE, TARGETS, check, execute, program, tensor, weight

from specc import driver, targets
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Group, Input
from specc.backends.tvm.kernels import (
    attention,
    convolution,
    depthwise,
    general,
    grouped,
    linear,
    select,
    squeeze,
    winograd,
)
from specc.backends.tvm.kernels import half as sums_of_runs
from specc.backends.tvm.library import compile_kernel
from specc.disassembly import disassemble
from specc.ir.bits import of_bits, to_bits
from specc.ir.dtypes import HALVES
from specc.ir.graph import Graph
from specc.ir.types import TensorType
from specc.model import Model
from specc.static_profile import count, hot_loops
from specc.targets import Target
from specc.unpack import unpack

ALL_BITS = np.arange(1 << 16, dtype=np.uint16)
ROUNDING = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""How far two neighbours of 16 bits lie apart, relative to them, at most: a sum near their middle falls to either."""

both = pytest.mark.parametrize("dtype", HALVES)


def half(dtype: str, *shape: int, layout: str = "", frozen: bool = False) -> Input:
    return Input(TensorType(shape, dtype, layout), frozen)


def awkward() -> np.ndarray[Any, Any]:
    """Middles of neighbours of both types and what lies beside them, tiny and great numbers, infinities, NaN."""
    found: list[np.ndarray[Any, Any]] = []
    for dtype in HALVES:
        numbers = of_bits(ALL_BITS, dtype)
        finite = np.sort(numbers[np.isfinite(numbers)]).astype(np.float64)
        middles = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
        found += [middles, np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(-np.inf))]
    special = np.array([np.inf, -np.inf, np.nan, 65519.9, 65520.0, 3.4e38, -3.4e38, 0.0, -0.0], np.float32)
    drawn = np.random.default_rng(0).integers(0, 1 << 32, 10_000, np.uint32).view(np.float32)
    return np.concatenate([*found, special, drawn])


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether the bits are the same; all that is no number is one."""
    alike = a.view(np.uint32) == b.view(np.uint32)
    return bool((alike | (np.isnan(a) & np.isnan(b))).all())


@both
def test_arrays_round_as_torch_does(dtype: str) -> None:
    numbers = awkward()
    expected = torch.tensor(numbers).to(getattr(torch, dtype)).to(torch.float32).numpy()
    assert same(of_bits(to_bits(numbers, dtype), dtype), expected)
    exact = of_bits(ALL_BITS, dtype)
    kept = ~np.isnan(exact)
    assert np.array_equal(to_bits(exact, dtype)[kept], ALL_BITS[kept])


@both
@pytest.mark.parametrize("native", [False, True])
def test_kernels_round_as_torch_does(dtype: str, native: bool) -> None:
    """With the instructions of the processor, and in integers, which is how the other targets do it."""
    if native and "float16" not in NATIVE.conversions:
        pytest.skip("this processor does not convert float16")
    conversions = frozenset(("float16",)) if native else frozenset()
    numbers = awkward()
    numbers = np.resize(numbers, -(-numbers.size // 16) * 16)
    cast = program([tensor(numbers.size)], ("cast", [0], {"dtype": dtype}))
    (rounded,) = execute(_kernel(cast, NATIVE, conversions), cast, [numbers], NATIVE)
    assert same(rounded, torch.tensor(numbers).to(getattr(torch, dtype)).to(torch.float32).numpy())
    wide = program([half(dtype, 1 << 16)], ("cast", [0], {"dtype": "float32"}))
    exact = of_bits(ALL_BITS, dtype)
    (widened,) = execute(_kernel(wide, NATIVE, conversions), wide, [exact], NATIVE)
    assert same(widened, exact)


def _kernel(group: Group, target: Target, conversions: frozenset[str]) -> Any:
    return kernel_of(group, general.lower(group, target, Choices()), conversions=conversions)


@pytest.mark.parametrize("rows, columns", [(24_000, 16), (3_000, 13), (3_000, 5), (3_000, 1)])
def test_an_instruction_rounds_to_bfloat16_as_torch_does(rows: int, columns: int) -> None:
    """But for numbers below 2^-126, which it takes for 0 of their sign; in whole vectors and in parts of one."""
    numbers = np.random.default_rng(1).permutation(awkward())[: rows * columns].reshape(rows, columns)
    target = processor.able(targets.TARGETS["x86-64-v4-bf16"])
    cast = program([tensor(rows, columns)], ("cast", [0], {"dtype": "bfloat16"}))
    with processor.running(targets.TARGETS["x86-64-v4-bf16"]):
        (rounded,) = execute(_kernel(cast, target, target.conversions), cast, [numbers], target)
    tiny = np.abs(numbers) < 2.0**-126
    assert tiny.any()
    expected = torch.tensor(np.where(tiny, np.copysign(np.float32(0), numbers), numbers)).bfloat16().float().numpy()
    assert same(rounded, expected)


@pytest.mark.parametrize("seen", [False, True], ids=["bfloat16 alone", "float32 as well"])
def test_what_is_rounded_next_is_coarse(seen: bool) -> None:
    """GELU without a division, where nobody sees more of it than a bfloat16."""
    steps: list[Any] = [("gelu", [0], {}), ("cast", [1], {"dtype": "bfloat16"})]
    group = program([tensor(33, 16)], *steps, *([("add", [1, 2], {})] if seen else []))
    function = kernel_of(group, general.lower(group, NATIVE, Choices())).function
    assert (" / " in function.script()) == seen
    check(group, general.lower, tolerance=2.0**-7 if seen else 2.0**-8)


@both
def test_c_rounds_as_torch_does(dtype: str, tmp_path: Path) -> None:
    numbers = awkward()
    graph = Graph("Rounding")
    x = graph.input("x", TensorType(numbers.shape))
    graph.outputs = [graph.apply("cast", [graph.apply("cast", [x], {"dtype": dtype})], {"dtype": "float32"})]
    contents = driver.compile(graph, "c", level=0).contents
    unpack(contents, tmp_path / "net")
    flags = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", "network.so")
    subprocess.run(["gcc", *flags, "network.c", "-lm"], cwd=tmp_path / "net", check=True)
    model = Model((tmp_path / "net" / "network.so").read_bytes(), contents.weights)
    assert same(model.run([numbers])[0], torch.tensor(numbers).to(getattr(torch, dtype)).to(torch.float32).numpy())


CONVOLUTIONS: list[tuple[tuple[int, ...], int, tuple[int, int], dict[str, Any]]] = [
    ((1, 32, 14, 14), 48, (1, 1), {}),
    ((1, 24, 13, 9), 33, (3, 3), {"padding": 1}),
    ((2, 17, 13, 9), 33, (3, 2), {"padding": [0, 1, 3, 2], "stride": 2}),
]


def convolved(
    dtype: str, shape: tuple[int, ...], out: int, kernel: tuple[int, int], attrs: dict[str, Any], layout: str
) -> Group:
    """A convolution that reads 16 bits, adds a tensor of 16 bits and writes 16 bits."""
    x = half(dtype, *shape, layout=layout)
    w = half(dtype, out, shape[1] // attrs.get("groups", 1), *kernel, frozen=True)
    base = program([x, w, weight(out)], ("conv2d", [0, 1, 2], attrs))
    other = half(dtype, *base.result.concrete, layout=base.result.layout)
    steps = ("conv2d", [0, 1, 2], attrs), ("add", [4, 3], {}), ("relu", [5], {}), ("cast", [6], {"dtype": dtype})
    return program([x, w, weight(out), other], *steps)


@both
@pytest.mark.parametrize("shape, out, kernel, attrs", CONVOLUTIONS)
def test_convolutions(dtype: str, shape: Any, out: int, kernel: Any, attrs: dict[str, Any]) -> None:
    group = convolved(dtype, shape, out, kernel, attrs, NATIVE.blocked_layout)
    check(group, convolution.lower, NATIVE, ROUNDING[dtype])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_convolutions_in_vectors_of_any_length(target: Any) -> None:
    group = convolved("bfloat16", *CONVOLUTIONS[0], target.blocked_layout)
    check(group, convolution.lower, target, ROUNDING["bfloat16"])


@both
def test_grouped_convolutions(dtype: str) -> None:
    attrs = {"groups": 8, "padding": 1}
    group = convolved(dtype, (1, 64, 7, 9), 64, (3, 3), attrs, NATIVE.blocked_layout)
    check(group, grouped.lower, NATIVE, ROUNDING[dtype])


@both
def test_other_kernels_of_convolutions(dtype: str) -> None:
    layout = NATIVE.blocked_layout
    dense = convolved(dtype, (1, 64, 28, 28), 64, (3, 3), {"padding": 1}, layout)
    check(dense, winograd.lower, NATIVE, ROUNDING[dtype], configuration={"winograd": "4x4"})
    for shape, out, kernel, attrs in (
        ((1, 24, 13, 9), 24, (3, 3), {"padding": 1, "groups": 24}),
        ((1, 32, 14, 14), 64, (7, 7), {"padding": 3, "stride": 2, "groups": 32}),
    ):
        check(convolved(dtype, shape, out, kernel, attrs, layout), depthwise.lower, NATIVE, ROUNDING[dtype])
    check(convolved(dtype, (1, 9, 7, 7), 6, (3, 3), {"groups": 3}, ""), general.lower, NATIVE, ROUNDING[dtype])


@both
def test_a_convolution_that_writes_rows(dtype: str) -> None:
    x, w = half(dtype, 1, 32, 6, 6, layout=NATIVE.blocked_layout), half(dtype, 40, 32, 1, 1, frozen=True)
    steps = ("conv2d", [0, 1], {}), ("cast", [2], {"dtype": dtype}), ("convert_layout", [3], {"layout": ""})
    check(program([x, w], *steps), convolution.lower, NATIVE, ROUNDING[dtype])


@both
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_linear_layers(dtype: str, act: str) -> None:
    x, w, other = half(dtype, 2, 9, 40), half(dtype, 50, 40, frozen=True), half(dtype, 2, 9, 50)
    steps = ("linear", [0, 1, 2], {}), (act, [4], {}), ("add", [5, 3], {}), ("cast", [6], {"dtype": dtype})
    check(program([x, w, weight(50), other], *steps), linear.lower, NATIVE, ROUNDING[dtype])


@both
def test_attention(dtype: str) -> None:
    q, k, v = half(dtype, 2, 20, 24), half(dtype, 2, 24, 20), half(dtype, 2, 20, 24)
    group = program(
        [q, k, v],
        ("constant", [], {"value": 0.3}),
        ("mul", [0, 3], {}),
        ("cast", [4], {"dtype": dtype}),
        ("matmul", [5, 1], {}),
        ("softmax", [6], {"axis": -1}),
        ("cast", [7], {"dtype": dtype}),
        ("matmul", [8, 2], {}),
        ("cast", [9], {"dtype": dtype}),
        ("permute", [10], {"order": [1, 0, 2]}),
    )
    check(group, attention.lower, NATIVE, 3 * ROUNDING[dtype])


@both
def test_squeeze_excite(dtype: str) -> None:
    layout = NATIVE.blocked_layout
    group = program(
        [half(dtype, 1, 64, 7, 7, layout=layout), half(dtype, 16, 64, 1, 1, frozen=True), weight(64, 16, 1, 1)],
        ("mean", [0], {"axes": [2, 3], "keep": True}),
        ("conv2d", [3, 1], {}),
        ("relu", [4], {}),
        ("conv2d", [5, 2], {}),
        ("sigmoid", [6], {}),
        ("cast", [7], {"dtype": dtype}),
    )
    check(group, squeeze.lower, NATIVE, ROUNDING[dtype])


@both
def test_what_moves_elements_moves_16_bits(dtype: str) -> None:
    """To the bit: also what a float16 cannot be twice, as a NaN."""
    group = program([half(dtype, 4, 6)], ("permute", [0], {"order": [1, 0]}))
    assert group.result.dtype == dtype
    check(group, select.template, NATIVE, 0.0)


@both
def test_norms_and_means_read_16_bits(dtype: str) -> None:
    for op, attrs in (("softmax", {"axis": -1}), ("mean", {"axes": [1]}), ("layer_norm", {})):
        inputs = [half(dtype, 5, 40)] + ([weight(40), weight(40)] if op == "layer_norm" else [])
        group = program(inputs, (op, list(range(len(inputs))), attrs))
        assert group.result.dtype == "float32"
        check(group)


@pytest.mark.parametrize(
    ("target", "dtype", "kernel", "expected"),
    [
        ("neoverse-n1", "float16", (1, 1), "half"),
        ("cortex-a76", "float16", (3, 3), "half"),
        ("neoverse-n1", "float16", (2, 5), "convolution"),
        ("neoverse-n1", "bfloat16", (1, 1), "convolution"),
        ("cortex-a72", "float16", (1, 1), "convolution"),
        ("neoverse-v1", "float16", (1, 1), "half"),
        ("neoverse-v1", "float16", (2, 5), "convolution"),
        ("x86-64-v4-amx", "float16", (1, 1), "half"),
        ("x86-64-v4-amx", "float16", (2, 5), "convolution"),
        ("x86-64-v4-bf16", "float16", (1, 1), "convolution"),
    ],
)
def test_products_are_added_up_in_float16_where_a_core_has_it(
    target: str, dtype: str, kernel: Any, expected: str
) -> None:
    """What these kernels compute is compared in `test_sums.py` and, emulated, in `tests/deploy/test_emulated.py`."""
    machine = targets.find(target)
    group = convolved(dtype, (1, 32, 15, 14), 40, kernel, {"stride": 2}, machine.blocked_layout)
    template = select.lower(group, machine)
    assert kernel_of(group, template, conversions=machine.conversions).template == expected


@pytest.mark.skipif(not any(map(shutil.which, ("llvm-mca", "llvm-mca-19"))), reason="needs llvm-mca (make arm-test)")
@pytest.mark.parametrize(("target", "peak"), [("neoverse-n1", 16), ("neoverse-v1", 32)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_runs_of_float16_multiply_nearly_all_the_time(target: str, peak: int, kernel: Any, tmp_path: Path) -> None:
    """By llvm-mca's count of the hot loop, which a run's end does not belong to."""
    machine = targets.find(target)
    inputs = [half("float16", 1, 64, 28, 28, layout=machine.blocked_layout)]
    group = program(
        [*inputs, half("float16", 64, 64, *kernel, frozen=True)], ("conv2d", [0, 1], {"padding": kernel[0] // 2})
    )
    template = sums_of_runs.convolution(group, machine, Choices())
    assert template is not None
    function = kernel_of(group, template, conversions=machine.conversions).function.with_attr("global_symbol", "kernel")
    made = compile_kernel(function, "kernel", machine, tmp_path).read_bytes()
    loops = [loop.own() for loop in hot_loops(disassemble(made, machine, ["kernel"])["kernel"], machine)]
    hot = max(count(loops, machine, machine.cpu), key=lambda loop: loop.macs)
    assert hot.peak == peak
    assert hot.rate > 0.75 * peak
