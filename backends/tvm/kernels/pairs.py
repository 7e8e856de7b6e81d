"""Instructions that multiply bfloat16 in pairs, and add both products to each lane of a vector of float32.

    vdpbf16ps    sum <- sum + x[1] * w[1], then sum <- sum + x[0] * w[0], in each lane
    bfdot        sum <- sum + (x[0] * w[0] + x[1] * w[1])

A product of two bfloat16 has 16 significant bits, so each sum rounds once: that of `vdpbf16ps` to the nearest float32,
of two the even one, as a multiply-add of the widened numbers does; that of `bfdot` to the odd one of the two around it
(Arm ARM, BFDotAdd), which may put it off by nearly twice as much. Numbers below 2^-126 are taken for 0, as operands and
as sums, which puts a sum off by less than 2^-125.

Weights are packed so that two input channels of an output channel are neighbours (`Packing`, pairs). So are the two
activations that belong to them: they are broadcast as one number of 32 bits. `bfdot` takes them from any quarter of a
vector of 128 bits, so that one load brings the factors of all steps that are written out, and adds to four lanes, parts
of a block (`Parts`).

With each `vdpbf16ps` in the machine code replaced by a multiply-add of float32, which takes the same operands, one core
of a Cascade Lake takes 0.48 to 0.63 of the time that the same layers take in float32, and 0.39 to 0.62 of that with
widened factors. Where the instruction is slower than a multiply-add, widened factors may be better: the Granite Rapids
generation starts it in every second cycle (110 GFLOP/s where multiply-adds of float32 make 220), and its target has
none. LLVM's models do not agree on other cores (docs/precision.md). So it is a choice, which a measurement can make
otherwise.

A target without the instruction could take pairs as they lie in memory, too, and shift them apart in registers. On the
same core that takes 1.13 to 1.4 times as long as factors that are widened in memory once a tile, and as long where one
row waits for its weights: there is no such form.

TVM widens every vector of bfloat16 before an intrinsic sees it. What calls this one is therefore a function in LLVM's
language, which takes vectors of integers. For `bfdot` it is one in assembly: LLVM 22 does not find its form with an
element, and would broadcast each pair first, in every fifth instruction (25.5 of 32 products in a cycle on a Neoverse
V1, by llvm-mca's count; 31.9 without).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Registers
from specc.backends.tvm.kernels.parts import ELEMENTS, FENCE, Parts, fence
from specc.targets import Target

DEPTH = 2
"""Products that one instruction adds up in a lane."""

_NAME = "specc_pairs"
_INTRINSIC = """
declare {sums} @{intrinsic}({sums}, {halves}, {halves})
define linkonce_odr {sums} @{name}({sums} %sum, {words} %x, {words} %w) alwaysinline {{
  %left = bitcast {words} %x to {halves}
  %right = bitcast {words} %w to {halves}
  %result = call {sums} @{intrinsic}({sums} %sum, {halves} %left, {halves} %right)
  ret {sums} %result
}}
"""
_ASSEMBLY = """
define linkonce_odr {sums} @{name}({sums} %sum, {words} %x, {words} %w) alwaysinline {{
  %result = call {sums} asm "{instruction} $0.4s, $3.8h, $2.2h[{element}]", "=w,0,w,w"(
      {sums} %sum, {words} %x, {words} %w)
  ret {sums} %result
}}
"""


def take(choices: Choices, target: Target) -> Pairs | None:
    """The products of pairs, where the target has them and no measurement speaks for widened factors."""
    if not target.pair_product or not choices.take("pairs", (True, False), True):
        return None
    return Pairs(target)


@dataclass(frozen=True)
class Factors:
    """Two activations: those in each lane of a vector, or those in an element of it."""

    vector: Any
    element: int


class Pairs(Parts):
    """The products of pairs on a target that has an instruction for them."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, "float32", target.pair_product == "bfdot")
        self.written = ELEMENTS if self.by_element else None
        """Steps of the reduction that are written out, where the instruction has a say in it: those of one load."""
        sums, words = f"<{self.width} x float>", f"<{self.width} x i32>"
        if self.by_element:
            functions = [
                _ASSEMBLY.format(
                    name=self._name(element), instruction=target.pair_product, element=element, sums=sums, words=words
                )
                for element in range(ELEMENTS)
            ]
        else:
            intrinsic = {"vdpbf16ps": f"llvm.x86.avx512bf16.dpbf16ps.{target.vector_bits}"}[target.pair_product]
            halves = f"<{DEPTH * self.width} x bfloat>"
            functions = [
                _INTRINSIC.format(name=self._name(0), intrinsic=intrinsic, sums=sums, words=words, halves=halves)
            ]
        self.functions = "".join([*functions, FENCE])

    def _name(self, element: int) -> str:
        """The function that takes the activations from an element of a vector; the only one takes all of it."""
        return f"{_NAME}_{element}"

    def part(self) -> None:
        """Begins a step, in front of which LLVM is not to read its weights: it would do so for all steps, and as it
        does not know what the products cost, it would store other vectors for that."""
        if self.by_element:
            fence()

    def weights(self, buffer: Any, *place: Any) -> list[Any]:
        """The weights of an output block's parts for two channels: `place` is where they lie, but for the lanes."""
        return [tirx.BufferLoad(buffer, [*place, self._part(part)]) for part in range(self.parts)]

    def factors(self, buffer: Any, place: Sequence[Any], count: int) -> list[Factors]:
        """The pairs of neighbouring activations for `count` steps, which lie from `place` on."""
        *lead, first = place
        if not self.by_element:
            pairs = [tirx.BufferLoad(buffer, [*lead, tirx.Ramp(first + q * DEPTH, 1, DEPTH)]) for q in range(count)]
            return [Factors(tirx.Broadcast(tirx.reinterpret("uint32", pair), self.width), 0) for pair in pairs]
        every = tirx.BufferLoad(buffer, [*lead, tirx.Ramp(first, 1, DEPTH * count)])
        if count == 1:
            return [Factors(T.Bind(tirx.Broadcast(tirx.reinterpret("uint32", every), ELEMENTS)), 0)]
        words = tirx.reinterpret(f"uint32x{count}", every)
        if count < ELEMENTS:
            words = tirx.Shuffle([words] * (ELEMENTS // count), [*range(ELEMENTS)])
        vector = T.Bind(words)
        return [Factors(vector, q) for q in range(count)]

    def add(self, sums: Registers, number: int, factors: Factors, weights: Sequence[Any]) -> None:
        """Adds the products of two activations with the two weights of each lane to the sums of a block."""
        for part, weight in enumerate(weights):
            vector = sums.vectors[number * self.parts + part]
            total = tirx.BufferLoad(vector, [self._part(0)])
            name = self._name(factors.element)
            made = tirx.call_pure_extern(f"float32x{self.width}", name, total, factors.vector, weight)
            T.buffer_store(vector, made, [self._part(0)])


@contextmanager
def imported(pairs: Pairs | None) -> Iterator[None]:
    """What is written in here can use `pairs`."""
    if pairs is None:
        yield
    else:
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", pairs.functions):
            yield
