"""Instructions that multiply bfloat16 in pairs, and add both products to each lane of a vector of float32.

    vdpbf16ps    sum <- sum + x[1] * w[1], then sum <- sum + x[0] * w[0], in each lane

A product of two bfloat16 has 16 significant bits, so each line rounds once, to the nearest float32, of two the even
one: it is a multiply-add of the widened numbers. Only that numbers below 2^-126 are taken for 0, as operands and as
sums, which puts a sum off by less than 2^-125.

Weights are packed so that two input channels of an output channel are neighbours (`Packing`, pairs). So are the two
activations that belong to them: they are broadcast as one number of 32 bits.

With each `vdpbf16ps` in the machine code replaced by a multiply-add of float32, which takes the same operands, one core
of a Cascade Lake takes 0.48 to 0.63 of the time that the same layers take in float32, and 0.39 to 0.62 of that with
widened factors. Where the instruction is slower than a multiply-add, widened factors may be better. LLVM's models do
not agree on which cores these are (docs/precision.md). So it is a choice, which a measurement can make otherwise.

A target without the instruction could take pairs as they lie in memory, too, and shift them apart in registers. On the
same core that takes 1.13 to 1.4 times as long as factors that are widened in memory once a tile, and as long where one
row waits for its weights: there is no such form.

TVM widens every vector of bfloat16 before an intrinsic sees it. What calls this one is therefore a function in LLVM's
language, which takes vectors of integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Registers
from specc.targets import Target

DEPTH = 2
"""Products that one instruction adds up in a lane."""

_NAME = "specc_pairs"
_FUNCTION = """
declare {sums} @{intrinsic}({sums}, {halves}, {halves})
define linkonce_odr {sums} @{name}({sums} %sum, {words} %x, {words} %w) alwaysinline {{
  %left = bitcast {words} %x to {halves}
  %right = bitcast {words} %w to {halves}
  %result = call {sums} @{intrinsic}({sums} %sum, {halves} %left, {halves} %right)
  ret {sums} %result
}}
"""


def take(choices: Choices, target: Target) -> Pairs | None:
    """The products of pairs, where the target has them and no measurement speaks for widened factors."""
    if not target.pair_product or not choices.take("pairs", (True, False), True):
        return None
    return Pairs(target)


class Pairs:
    """The products of pairs on a target that has an instruction for them."""

    def __init__(self, target: Target) -> None:
        self.lanes = target.lanes
        intrinsic = {"vdpbf16ps": f"llvm.x86.avx512bf16.dpbf16ps.{target.vector_bits}"}[target.pair_product]
        sums, words, halves = f"<{self.lanes} x float>", f"<{self.lanes} x i32>", f"<{DEPTH * self.lanes} x bfloat>"
        self.function = _FUNCTION.format(name=_NAME, intrinsic=intrinsic, sums=sums, words=words, halves=halves)

    def weights(self, buffer: Any, *place: Any) -> Any:
        """The weights of an output block for two channels: `place` is where they lie, but for the lanes."""
        return tirx.BufferLoad(buffer, [*place, tirx.Ramp(0, 1, self.lanes)])

    def factors(self, buffer: Any, *place: Any) -> Any:
        """Two neighbouring activations, the first at `place`, in each lane of a vector."""
        *lead, first = place
        both = tirx.reinterpret("uint32", tirx.BufferLoad(buffer, [*lead, tirx.Ramp(first, 1, DEPTH)]))
        return tirx.Broadcast(both, self.lanes)

    def add(self, sums: Registers, number: int, factors: Any, weights: Any) -> None:
        """Adds the products of two activations with the two weights of each lane to a vector of sums."""
        at = [tirx.Ramp(0, 1, self.lanes)]
        total = tirx.BufferLoad(sums.vectors[number], at)
        made = tirx.call_pure_extern(f"float32x{self.lanes}", _NAME, total, factors, weights)
        T.buffer_store(sums.vectors[number], made, at)


@contextmanager
def imported(pairs: Pairs | None) -> Iterator[None]:
    """What is written in here can use `pairs`."""
    if pairs is None:
        yield
    else:
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", pairs.function):
            yield
