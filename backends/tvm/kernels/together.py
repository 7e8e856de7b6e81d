"""Functions of several vectors at a time: each instruction of all of them, then the next one.

The exponential is a chain of some twenty instructions, each of which waits for the one before it. A core looks for what
is ready among the instructions that wait (97 at most on a Skylake); where the chain of one vector stands behind the
chain of another, these belong to four or five chains. Side by side, the instructions of many vectors are ready in the
order in which they stand, and LLVM leaves that order as it is.

On one thread of a Cascade Lake's core, in C, a vector's exponential takes 5.1 to 6.0 times what two multiply-adds
take where three chains follow each other, 4.2 to 4.9 with three side by side, 3.5 to 4.3 with six.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specc.backends.tvm import fastmath
from specc.backends.tvm.emitter import Emitter, Registers
from specc.backends.tvm.expression import Scalar, writing_c
from specc.targets import Target

_RESULTS = 20
"""Results of operations on the way to an exponential, and its argument."""


def beside(target: Target) -> int:
    """How many vectors go side by side: each has two numbers on their way, and constants take a third of the
    registers."""
    return max(1, target.vector_registers // 3)


class Numbers:
    """A float32 of each of several vectors; what is computed from them goes to registers at once."""

    def __init__(self, parts: Sequence[Scalar], hold: Callable[[Sequence[Scalar]], Numbers]) -> None:
        self.parts, self._hold = tuple(parts), hold

    def _with(self, other: Numbers, compute: Callable[[Scalar, Scalar], Scalar]) -> Numbers:
        return self._hold([compute(a, b) for a, b in zip(self.parts, other.parts, strict=True)])

    def __add__(self, other: Numbers) -> Numbers:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Numbers) -> Numbers:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other: Numbers) -> Numbers:
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other: Numbers) -> Numbers:
        return self._with(other, lambda a, b: a / b)


class Exponentials:
    """exp of `count` vectors at a time; what `fastmath` asks of a machine (`fastmath.Primitives`).

    To be made outside of the loop over lanes, for TVM makes a vector of vectors of what is allocated inside, and used
    once in it. `coarse` ones are for what is rounded to bfloat16 next (`fastmath.coarse_exp`).
    """

    def __init__(self, emitter: Emitter, count: int, lanes: int, coarse: bool = False) -> None:
        self.emitter, self.count, self.coarse = emitter, count, coarse
        self._free = iter([Registers(count, lanes, "float32") for _ in range(1 if writing_c() else _RESULTS)])
        self._lane: Any = None

    def __call__(self, arguments: Sequence[Scalar], lane: Any) -> Sequence[Scalar]:
        """The exponential of each argument, none of which is above 0."""
        self._lane = lane
        if writing_c():
            return self._hold([self.emitter.math.exp(argument) for argument in arguments]).parts
        if self.coarse:
            return fastmath.coarse_exp(self, self._hold(arguments)).parts
        return fastmath.exp(self, self._hold(arguments), negative=True).parts

    def _hold(self, parts: Sequence[Scalar]) -> Numbers:
        registers = next(self._free)
        for i, part in enumerate(parts):
            self.emitter.store(registers, part, [i, self._lane])
        return Numbers([Scalar(registers[i, self._lane]) for i in range(self.count)], self._hold)

    def const(self, value: float, dtype: str) -> Numbers:
        return Numbers([self.emitter.math.const(value, dtype)] * self.count, self._hold)

    def min(self, a: Numbers, b: Numbers) -> Numbers:
        return self._hold([self.emitter.math.min(x, y) for x, y in zip(a.parts, b.parts, strict=True)])

    def max(self, a: Numbers, b: Numbers) -> Numbers:
        return self._hold([self.emitter.math.max(x, y) for x, y in zip(a.parts, b.parts, strict=True)])

    def let(self, a: Numbers) -> Numbers:
        """`a`, which is in registers as it is."""
        return a

    def binary(self, a: Numbers) -> tuple[Numbers, Numbers]:
        """The nearest integers n, and half of 2^n (`Math.binary`)."""
        whole, power = zip(*(self.emitter.math.binary(part) for part in a.parts), strict=True)
        return self._hold(whole), self._hold(power)
