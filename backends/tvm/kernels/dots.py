"""Instructions that multiply integers of 8 bits and add four products to each lane of an accumulator of 32.

    vpdpbusd, usdot   uint8 activations and int8 weights
    sdot              int8 and int8: activations are lowered by 128, and each sum starts with 128 times its weights

The product of x with the weights w is that of x - 128 and 128 * (the sum of w), exactly; the second part is known when
weights are packed (`Packing`). Nothing saturates: `vpdpbusd` adds four products of 17 bits to 32, where its forerunner
(`vpmaddubsw`) would add two in 16.

Weights are packed so that four input channels of an output channel are neighbours. The four activations that belong to
them are neighbours, too: they are broadcast as one number of 32 bits. On ARM the instruction itself takes them from any
quarter of a vector of 128 bits, so one load brings the factors of four pixels of a row, or four steps of a linear
layer; such loads lie inside of what is read and overlap where its length is no multiple of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.emitter import Registers
from specc.backends.tvm.kernels.parts import ELEMENTS, FENCE, Parts, fence
from specc.backends.tvm.packing import Packing
from specc.targets import Target

DEPTH = 4
"""Products that one instruction adds up in a lane."""


class Dots(Parts):
    """The dot products of a target that has an instruction for them."""

    def __init__(self, target: Target) -> None:
        super().__init__(target, "int32", target.dot_product != "vpdpbusd")
        self.instruction = target.dot_product
        self.lowered = 128 if self.instruction == "sdot" else 0
        """By how much activations are lowered for the instruction."""
        self.written = ELEMENTS // self.parts if self.by_element else 2
        """Steps of a linear layer that are written out: a vector brings four, but their weights take registers."""
        self._sums = f"int32x{self.width}"

    def packing(self, inner: int) -> Packing:
        """How weights are stored whose input channels lie in blocks of `inner`."""
        return Packing("lowered" if self.lowered else "dot", self.lanes, inner)

    def start(self, sums: Registers, numbers: Sequence[int], weights: Any, block: Any, bias: Any) -> None:
        """Begins the sums of an output block with its biases and what makes up for lowered activations; without either
        where there are no biases or no weights (None)."""
        for part in range(self.parts):
            at = tirx.Ramp(block * self.lanes + part * self.width, 1, self.width)
            found = tirx.Broadcast(tirx.const(0, "int32"), self.width) if bias is None else tirx.BufferLoad(bias, [at])
            if self.lowered and weights is not None:
                found = found + tirx.reinterpret(self._sums, self._vector(weights, block, 0, part))
            for number in numbers:
                self._store(sums, number * self.parts + part, found)

    def weights(self, buffer: Any, block: Any, step: Any) -> list[Any]:
        """The weights of an output block for step number `step` of its reduction, in the order of `Packing`."""
        step = step + 1 if self.lowered else step
        return [self._vector(buffer, block, step, part) for part in range(self.parts)]

    def _vector(self, buffer: Any, block: Any, number: Any, part: int) -> Any:
        bytes = DEPTH * self.width
        return tirx.BufferLoad(buffer, [block, number, tirx.Ramp(part * bytes, 1, bytes)])

    def constant(self, value: int) -> Any:
        """Four times the activation `value`."""
        four = int.from_bytes(bytes([(value - self.lowered) % 256] * DEPTH), "little", signed=True)
        return tirx.Broadcast(tirx.const(four, "int32"), self.width)

    def part(self) -> None:
        """Keeps LLVM from reading in front of here what is needed behind it.

        A tap of a window shares most of its activations with the next one, and a register for each of them would be
        taken from the sums. Loads cost nothing beside the products, and neither does this: it is a fence that no
        processor sees. With all four steps of a block of channels written out, 7 pixels x 3 blocks stay in registers
        then: 192 channels, 14 x 14, 3 x 3, take 0.76 of the time of 7 x 2 without it (one core of a Cascade Lake).
        """
        if not self.by_element:
            fence()

    def four(self, buffer: Any, *place: Any) -> Any:
        """Four neighbouring activations, the first at `place`, in each lane of a vector."""
        return tirx.Broadcast(self._read(buffer, place, 1), self.width)

    def fours(self, buffer: Any, offsets: Sequence[int], at: Callable[[int], Sequence[Any]]) -> dict[int, Any]:
        """`four` at each of `offsets`, whose places `at` gives; those of consecutive offsets are neighbours."""
        if not self.by_element or not offsets:
            return {offset: self.four(buffer, *at(offset)) for offset in offsets}
        found = {}
        for start, size, inside in runs(offsets, ELEMENTS):
            vector = self._read(buffer, at(start), size)
            for offset in inside:
                found[offset] = self._repeated(vector, size, offset - start)
        return found

    def _repeated(self, vector: Any, size: int, element: int) -> Any:
        if size == 1:
            return tirx.Broadcast(vector, self.width)
        return tirx.Shuffle([vector] * (self.width // size), [element] * self.width)

    def _read(self, buffer: Any, place: Sequence[Any], size: int) -> Any:
        """A vector of `size` fours, or a single one, lowered as the instruction takes them."""
        *lead, last = place
        loaded = tirx.BufferLoad(buffer, [*lead, tirx.Ramp(last, 1, DEPTH * size)])
        found = tirx.reinterpret(f"int32x{size}" if size > 1 else "int32", loaded)
        if not self.lowered:
            return found
        bits = tirx.const(-0x7F7F7F80, "int32")  # in which four uint8 differ from int8 that are less by 128
        return found ^ (tirx.Broadcast(bits, size) if size > 1 else bits)

    def add(self, sums: Registers, number: int, four: Any, weights: Sequence[Any]) -> None:
        """Adds the products of `four` activations with the four weights of each lane to the sums of a block."""
        signed, unsigned = (tirx.reinterpret(f"{kind}8x{DEPTH * self.width}", four) for kind in ("int", "uint"))
        for part, weight in enumerate(weights):
            at = number * self.parts + part
            total = tirx.BufferLoad(sums.vectors[at], [tirx.Ramp(0, 1, self.width)])
            intrinsic, factors = {
                "vpdpbusd": (f"llvm.x86.avx512.vpdpbusd.{32 * self.width}", (signed, weight)),
                "usdot": ("llvm.aarch64.neon.usdot", (unsigned, weight)),
                "sdot": ("llvm.aarch64.neon.sdot", (weight, signed)),
            }[self.instruction]
            self._store(sums, at, tirx.call_llvm_pure_intrin(self._sums, intrinsic, total, *factors))

    def _store(self, sums: Registers, number: int, vector: Any) -> None:
        T.buffer_store(sums.vectors[number], vector, [tirx.Ramp(0, 1, self.width)])


@contextmanager
def imported(dots: Dots | None) -> Iterator[None]:
    """What is written in here can use `dots`."""
    if dots is None or dots.by_element:
        yield
    else:
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", FENCE):
            yield


def runs(offsets: Sequence[int], most: int) -> list[tuple[int, int, list[int]]]:
    """Runs of neighbours that cover `offsets`, each its start, its length, and the offsets that it is there for.

    All are equally long, a power of two up to `most`, and none reaches beyond the first or the last offset.
    """
    first, last = min(offsets), max(offsets)
    size = most
    while size > last - first + 1:
        size //= 2
    found: list[tuple[int, int, list[int]]] = []
    for offset in sorted(offsets):
        if not found or offset >= found[-1][0] + size:
            found.append((min(offset, last - size + 1), size, []))
        found[-1][2].append(offset)
    return found
