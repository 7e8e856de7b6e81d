"""TVM's passes that are left out: without them the code is the same, and memory is as templates ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tvm
from kernel_programs import TARGETS, program, tensor, weight
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import NOTHING
from specc.backends.tvm.emitter import kernel_of
from specc.backends.tvm.group import Input
from specc.backends.tvm.kernels import select
from specc.backends.tvm.library import tvm_target
from specc.backends.tvm.translation import LEFT_OUT, OPTIONS, translate
from specc.ir.types import TensorType
from specc.targets import Target

Step = tuple[str, tuple[int, ...], dict[str, Any]]


def integers(*shape: int, dtype: str = "uint8", frozen: bool = False) -> Input:
    return Input(TensorType(shape, dtype), frozen)


GROUPS: dict[str, tuple[list[Input], list[Step]]] = {
    # A border that counts, rows in strips of unlike length, few channels put side by side in memory of the kernel.
    "conv2d_integer": (
        [integers(1, 3, 11, 13), integers(33, 3, 3, 3, dtype="int8", frozen=True), weight(33, 1, 1)],
        [("conv2d_integer", (0, 1), {"padding": 1, "outside": 7}), ("dequantize", (3, 2), {})],
    ),
    "max_pool2d": ([tensor(1, 5, 9, 9)], [("max_pool2d", (0,), {"k": 3, "stride": 2, "padding": 1})]),
    "softmax": ([tensor(2, 9, 37)], [("softmax", (0,), {"axis": 2})]),
    "concat": ([tensor(2, 3, 5), tensor(2, 4, 5)], [("concat", (0, 1), {"axis": 1}), ("relu", (2,), {})]),
}


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("name", GROUPS)
def test_passes_that_are_left_out_change_nothing(name: str, target: Target, tmp_path: Path) -> None:
    inputs, steps = GROUPS[name]
    group = program(inputs, *steps)
    function = kernel_of(group, select.lower(group, target, NOTHING), target.form, target.conversions).function
    functions = {"kernel": function.with_attr("global_symbol", "kernel")}
    few, all_ = tmp_path / "few.o", tmp_path / "all.o"
    translate(functions, tvm_target(target)).write_to_file(str(few))
    with tvm.transform.PassContext(config=OPTIONS):
        tvm.tirx.build(tvm.IRModule(functions), target=tvm_target(target)).write_to_file(str(all_))
    assert few.read_bytes() == all_.read_bytes()


def test_memory_that_nobody_touches_stays() -> None:
    """A template asks for it lest lines fall on the same set of a cache."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        x, result = T.arg("x", T.buffer((4, 64), "float32")), T.arg("result", T.buffer((4, 64), "float32"))
        memory = T.alloc_buffer((4, 65), "float32")
        with T.serial(0, 4) as i, T.serial(0, 64) as j:
            T.buffer_store(memory, x[i, j], [i, j])
        with T.serial(0, 4) as i, T.serial(0, 64) as j:
            T.buffer_store(result, memory[i, j] + memory[3 - i, j], [i, j])
    module = translate({"kernel": builder.get().with_attr("global_symbol", "kernel")}, tvm.target.Target({"kind": "c"}))
    assert f"(uint64_t){4 * 65 * 4}" in module.inspect_source()


def test_passes_are_named_as_tvm_names_them() -> None:
    """One that is called otherwise would run, and nobody would be told."""
    made = (
        tvm.s_tir.transform.CompactBufferAllocation,
        tvm.s_tir.transform.HoistIfThenElse,
        tvm.tirx.transform.RemoveNoOp,
    )
    assert tuple(each().info.name for each in made) == LEFT_OUT
