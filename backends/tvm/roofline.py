"""The two roofs over every kernel on this machine, measured: multiply-adds from registers, and reads from memory.

    multiplications   vectors that never leave the registers, enough of them to hide the latency of a multiply-add
    traffic           the sum of an array that no cache holds

A kernel that does F operations and moves B bytes takes at least max(F / operations, B / bytes) seconds (Williams,
Waterman and Patterson, "Roofline", CACM 52:4, 2009).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Emitter, Registers
from specc.backends.tvm.library import PASS_OPTIONS, tvm_target
from specc.targets import Target

_STEPS, _PIECES, _VECTORS = 1 << 15, 8, 12
_ARRAY = 1 << 25
"""float32 in the array that is read: 128 MB."""

_RUNS = 15


@dataclass(frozen=True)
class Roofs:
    """Operations (a multiply-add is two) and bytes in a second."""

    operations: float
    bytes: float

    def seconds(self, operations: float, moved: float) -> float:
        """The least time for so many operations and bytes."""
        return max(operations / self.operations, moved / self.bytes)


def measure(target: Target) -> Roofs:
    """The roofs of this machine with the threads of the calling thread's pool; takes about a second."""
    multiply, read = _compiled(target, _multiply(target)), _compiled(target, _read(target))
    result = tvm.runtime.tensor(np.zeros((_PIECES, target.lanes), np.float32))
    array = tvm.runtime.tensor(np.zeros(_ARRAY, np.float32))
    operations = 2 * _STEPS * _PIECES * _VECTORS * target.lanes
    return Roofs(operations / _least(lambda: multiply(result)), 4 * _ARRAY / _least(lambda: read(array, result)))


def _least(call: Callable[[], Any]) -> float:
    """The least of some runs, in seconds."""
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _compiled(target: Target, function: Any) -> Any:
    with tvm.transform.PassContext(config=PASS_OPTIONS):
        return tvm.tirx.build(tvm.IRModule({"kernel": function}), target=tvm_target(target))["kernel"]


def _multiply(target: Target) -> Any:
    """(result): every piece multiplies and adds in its registers for a while and stores their sum."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        result = T.arg("result", T.buffer((_PIECES, target.lanes), "float32"))
        with T.parallel(0, _PIECES) as piece:
            registers = Registers(_VECTORS, target.lanes, "float32")
            with T.vectorized(0, target.lanes) as lane:
                factor = T.Bind(result[piece, lane])
                for i in range(_VECTORS):
                    Emitter.store(registers, tirx.const(float(i), "float32"), (i, lane))
                with T.serial(0, _STEPS):
                    for i in range(_VECTORS):
                        Emitter.store(registers, registers[i, lane] * factor + factor, (i, lane))
                total = sum((registers[i, lane] for i in range(1, _VECTORS)), registers[0, lane])
                Emitter.store(result, total, (piece, lane))
    return builder.get()


def _read(target: Target) -> Any:
    """(array, result): every piece stores the sum of its part of the array."""
    vectors = _ARRAY // (_PIECES * target.lanes)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        array = T.arg("array", T.buffer((_ARRAY,), "float32"))
        result = T.arg("result", T.buffer((_PIECES, target.lanes), "float32"))
        with T.parallel(0, _PIECES) as piece:
            registers = Registers(4, target.lanes, "float32")
            with T.vectorized(0, target.lanes) as lane:
                for i in range(4):
                    Emitter.store(registers, tirx.const(0.0, "float32"), (i, lane))
                with T.serial(0, vectors // 4) as step:
                    for i in range(4):
                        at = ((piece * (vectors // 4) + step) * 4 + i) * target.lanes + lane
                        Emitter.store(registers, registers[i, lane] + array[at], (i, lane))
                total = sum((registers[i, lane] for i in range(1, 4)), registers[0, lane])
                Emitter.store(result, total, (piece, lane))
    return builder.get()
