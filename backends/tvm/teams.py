"""Which programs one thread runs alone, however many a model has: those that are done before another one is awake.

Waking a thread takes 11 to 16 microseconds on a processor of the Granite Rapids generation, and the run ends when the
thread has seen that it is over. A RepVGG for digits, compiled for pictures of four sizes, with two threads and with
one, called from C without a pause, so that the second thread sleeps in none of the calls (medians of microseconds):

    8 x 8     9.8 and 7.0        16 x 16    20 and 24       24 x 24    35 and 48

With a thread that sleeps, 16 x 16 has nothing left to gain; beside other programs, which have to leave a core first,
all of these take some 30 microseconds longer with two threads than with one.

The model counts multiply-adds, or bytes, at rates that kernels reach, and no exponentials: 0.77 of the cycles of all of
MobileNetV3's kernels. Whether each loop by itself is long enough is not asked: loops below 1, 2 or 3 microseconds taken
by the leader alone made no difference to the same network or to MobileNetV3 (0.99 to 1.01), since threads that are
awake take a piece in less.
"""

from __future__ import annotations

from collections.abc import Mapping

from specc.backends.tvm.emitter import Kernel
from specc.backends.tvm.program import Call, Program
from specc.targets import Target

LEAST = 100_000
"""Cycles, by the model, of the loops that threads would share, below which a program is not worth waking them."""

_CALL = 200
"""Cycles to begin and to end a call."""

_BYTES = 16.0
"""Bytes that a kernel reads and writes in a cycle where caches hold them."""


def alone(program: Program, kernels: Mapping[str, Kernel], target: Target) -> bool:
    """Whether one thread is as fast as several for a program, all of whose dimensions are fixed."""
    if not target.vectors or target.gpu:
        return False
    shared = (call for call in program.calls if kernels[call.kernel].parallel)
    return sum(_cycles(program, call, target) for call in shared) < LEAST


def _cycles(program: Program, call: Call, target: Target) -> float:
    """Those of a call by one thread."""
    moved, _ = program.traffic(call)
    return _CALL + max(call.macs / _rate(call.element, target), moved / _BYTES)


def _rate(element: str, target: Target) -> float:
    """Multiply-adds of factors of a type that a core does in a cycle: in tiles, half of what it could."""
    vectors = target.lanes * target.fma_per_cycle
    integers = element in ("int8", "uint8")
    if target.tile_product and (integers or element == "bfloat16"):
        return vectors * (16 if integers else 8)
    if (integers and target.dot_product) or (element == "bfloat16" and target.pair_product):
        return vectors * (4 if integers else 2)
    return vectors
