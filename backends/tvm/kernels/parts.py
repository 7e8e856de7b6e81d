"""Output blocks whose sums lie in several vectors while they grow.

Some instructions take shorter vectors than the target has elsewhere: those of NEON, which multiply by an element of a
vector (`bfdot`, `fmla`, `usdot`), on a core with SVE. An output block has several parts then, each with sums in a
register of its own. In front of the products and behind them, a block is one vector.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Registers
from specc.targets import Target

ELEMENTS = 4
"""Numbers of 32 bits in a vector of NEON, of which an instruction takes one for all of its lanes."""

_FENCE = "specc_fence"
FENCE = f"""
define linkonce_odr i32 @{_FENCE}() alwaysinline {{
  fence syncscope("singlethread") seq_cst
  ret i32 0
}}
"""
"""What `fence` calls, in LLVM's language."""


def fence() -> None:
    """Keeps LLVM from reading in front of here what is needed behind it: no processor sees this. It needs `FENCE`."""
    T.evaluate(tirx.call_extern("int32", _FENCE))


class Parts:
    """The vectors of an instruction that adds to `width` sums of `dtype`."""

    def __init__(self, target: Target, dtype: str, by_element: bool) -> None:
        self.lanes, self.dtype = target.lanes, dtype
        self.by_element = by_element
        """Whether the instruction takes a factor from any of the `ELEMENTS` of a vector."""
        self.width = ELEMENTS if by_element else target.lanes
        """Sums that one instruction adds to."""
        self.parts = target.lanes // self.width

    def tiled(self, target: Target, reserve: int) -> Target:
        """The target as the cost model of tiles is to see it: with so many registers for a block's sums, none for
        activations, which lie side by side in a vector, and `reserve` for what a step reads ahead."""
        if not self.by_element:
            return target
        held = (target.vector_registers - reserve) // self.parts
        return replace(target, broadcast_registers=False, vector_registers=held)

    def registers(self, acc: Registers, count: int) -> Registers:
        """Where the sums of `count` vectors lie while they grow: in `acc` itself, if the instruction takes them so."""
        return acc if self.parts == 1 else Registers(count * self.parts, self.width, self.dtype)

    def spread(self, acc: Registers, sums: Registers, count: int) -> None:
        """Begins the sums with what stands in `acc`, where they do not lie there already."""
        for number in range(count * self.parts if self.parts > 1 else 0):
            at, part = divmod(number, self.parts)
            T.buffer_store(sums.vectors[number], tirx.BufferLoad(acc.vectors[at], [self._part(part)]), [self._part(0)])

    def gathered(self, sums: Registers, acc: Registers, count: int) -> None:
        """Writes the sums to `acc`, where they do not lie there already."""
        for number in range(count * self.parts if self.parts > 1 else 0):
            at, part = divmod(number, self.parts)
            T.buffer_store(acc.vectors[at], tirx.BufferLoad(sums.vectors[number], [self._part(0)]), [self._part(part)])

    def _part(self, number: int) -> Any:
        return tirx.Ramp(number * self.width, 1, self.width)
