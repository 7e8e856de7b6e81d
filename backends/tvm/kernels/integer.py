"""Convolutions and linear layers of integers: uint8 activations, int8 weights, sums in 32 bits.

The loops and tiles are those of the layers of real numbers (`convolution`, `linear`). On a target with dot products
(`Target.dot_products`), one instruction adds to each lane of an accumulator the products of four neighbours: weights
are packed so that four input channels of an output channel are neighbours, and four channels of a pixel, which are
neighbours in a block of channels, are broadcast as one number of 32 bits. Nothing saturates: `vpdpbusd` adds four
products of 17 bits to 32 (`vpmaddubsw`, its forerunner, would add two in 16). Elsewhere, both factors are widened
first.

Taps outside of the operand read `outside`, the integer that stands for 0. Where that is 0 they are left out, as they
are for real numbers; otherwise they multiply a constant: such rows and columns lie at the border.

One core of a Cascade Lake at 2.5 GHz: see docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import convolution as convolutions
from specc.backends.tvm.kernels import linear as linears
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.epilogue import operand_packings
from specc.backends.tvm.kernels.rows import row_taps
from specc.backends.tvm.packing import Packing
from specc.ir.types import block_of
from specc.targets import Target

DEPTH = 4
"""Products that one instruction adds up in a lane."""


def convolution(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a dense convolution of integers in blocks; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "conv2d_integer":
        return None
    step = group.step(anchor)
    data, weight, *bias = step.operands
    packings = operand_packings(group, target.lanes, anchor)
    if packings is None or step.attrs["groups"] != 1 or block_of(group.type(data).layout) != target.lanes:
        return None
    if not all(group.inputs[v].frozen for v in (weight, *bias)):
        return None
    packings[weight] = Packing("dot" if target.dot_products else "convolution", target.lanes, target.lanes)
    packings |= {value: Packing("padded", target.lanes) for value in bias}
    geometry = convolutions.geometry_of(group, anchor, target, choices)
    steps = target.lanes // (DEPTH if target.dot_products else 1)
    schedule = convolutions.schedule_of(geometry, steps, target, choices, size=1, fetch=False)
    return Template(lambda emitter: _Convolution(emitter, anchor, geometry, schedule, target).emit(), packings)


def linear(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a linear layer of integers; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "linear_integer":
        return None
    dots = target.dot_products and group.type(group.step(anchor).operands[0]).concrete[-1] % DEPTH == 0
    packed = Packing("dot", target.lanes, DEPTH) if dots else Packing("matrix", target.lanes)
    packings = linears.operands_of(group, anchor, packed, target)
    if packings is None:
        return None
    schedule = linears.schedule_of(group, anchor, target, choices, size=1, depth=DEPTH if dots else 1)
    return Template(lambda emitter: _Linear(emitter, anchor, schedule, target, dots).emit(), packings)


def add_products(acc: Registers, number: int, four: Any, weights: Any, lanes: int) -> None:
    """Adds the products of `four` uint8, one number of 32 bits, with the four int8 of each lane to an accumulator."""
    vector = acc.vectors[number]
    at = tirx.Ramp(0, 1, lanes)
    total = tirx.call_llvm_pure_intrin(
        f"int32x{lanes}",
        f"llvm.x86.avx512.vpdpbusd.{32 * lanes}",
        tirx.BufferLoad(vector, [at]),
        tirx.reinterpret(f"int8x{DEPTH * lanes}", tirx.Broadcast(four, lanes)),
        weights,
    )
    T.buffer_store(vector, total, [at])


def _four(buffer: Any, *index: Any) -> Any:
    """Four neighbouring uint8, the first at `index`, as one number of 32 bits."""
    *lead, last = index
    return tirx.reinterpret("int32", tirx.BufferLoad(buffer, [*lead, tirx.Ramp(last, 1, DEPTH)]))


def _weights(buffer: Any, *index: Any, lanes: int) -> Any:
    """The vector of int8 at `index` of weights that are packed for dot products."""
    return tirx.BufferLoad(buffer, [*index, tirx.Ramp(0, 1, DEPTH * lanes)])


class _Convolution(convolutions.Convolution):
    """Writes the loops of one convolution of integers."""

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        geometry: convolutions.Geometry,
        schedule: convolutions.Schedule,
        target: Target,
    ) -> None:
        super().__init__(emitter, anchor, geometry, schedule, target.lanes, target)
        self.dots = target.dot_products
        self.outside: int = emitter.group.step(anchor).attrs["outside"]

    def _tile(self, n: Any, blocks: Sequence[Any], y: Any, x: Any, span: tiles.Span, number: Any) -> None:
        emitter, g, count = self.emitter, self.geometry, len(blocks)
        tile = self.epilogue.tile(span.pixels, blocks)
        acc = tile.accumulators
        with emitter.lanes(self.lanes) as lane:
            for j, block in enumerate(blocks):
                for i in range(span.pixels):
                    start = tirx.const(0, "int32") if self.bias is None else self.bias[block * self.lanes + lane]
                    emitter.store(acc, start, [i * count + j, lane])
        low, taps = row_taps(y, g.rows, g.kernel[0], g.stride[0], g.dilation[0], g.padding[0], g.in_height)
        everywhere = [(0, span.pixels)] * g.kernel[1]
        with emitter.serial(-(-g.in_channels // self.inner)) as channel:
            with emitter.serial(taps) as r:
                for s, inside in enumerate(span.taps):
                    self._taps(acc, n, blocks, (y, x), channel, (low + r, s), range(*inside), everywhere[s])
            if self.outside:
                with emitter.serial(low) as r:
                    for s, pixels in enumerate(everywhere):
                        self._taps(acc, n, blocks, (y, x), channel, (r, s), range(0), pixels)
                with emitter.serial(g.kernel[0] - low - taps, low + taps) as r:
                    for s, pixels in enumerate(everywhere):
                        self._taps(acc, n, blocks, (y, x), channel, (r, s), range(0), pixels)
        row, column = (0, y * g.columns + x) if g.flat else (y, x)
        with emitter.lanes(self.lanes) as lane:
            tile.finish(n, row, column, lane)
        tile.flush(n, row, column)

    def _taps(
        self,
        acc: Registers,
        n: Any,
        blocks: Sequence[Any],
        place: tuple[Any, Any],
        channel: Any,
        tap: tuple[Any, int],
        inside: range,
        pixels: tuple[int, int],
    ) -> None:
        """One tap of all channels of one input block; of `pixels`, those that are not `inside` read `outside`."""
        emitter, g, count = self.emitter, self.geometry, len(blocks)
        (y, x), (r, s) = place, tap
        reading = [i for i in range(*pixels) if i in inside or self.outside]
        if not reading:
            return

        def at(i: int) -> list[Any]:
            if g.flat:
                return [n, channel, 0, y * g.columns + x + i]
            row = y * g.stride[0] + r * g.dilation[0] - g.padding[0]
            return [n, channel, row, (x + i) * g.stride[1] + s * g.dilation[1] - g.padding[1]]

        if self.dots:
            border = tirx.const(self.outside * 0x01010101 - (1 << 32) * (self.outside > 127), "int32")
            unroll = self.schedule.unroll
            with emitter.serial(self.inner // DEPTH // unroll) as outer:
                for q in (outer * unroll + u for u in range(unroll)):
                    for i in reading:
                        four = _four(self.data, *at(i), q * DEPTH) if i in inside else border
                        for j, block in enumerate(blocks):
                            weights = _weights(self.weight, block, channel, r, s, q, lanes=self.lanes)
                            add_products(acc, i * count + j, four, weights, self.lanes)
            return
        with emitter.serial(self.inner) as i_lane, emitter.lanes(self.lanes) as lane:
            for i in reading:
                value = (
                    tirx.Cast("int32", self.data[(*at(i), i_lane)])
                    if i in inside
                    else tirx.const(self.outside, "int32")
                )
                for j, block in enumerate(blocks):
                    weight = tirx.Cast("int32", self.weight[block, channel, r, s, i_lane, lane])
                    position = [i * count + j, lane]
                    emitter.store(acc, acc[tuple(position)] + value * weight, position)


class _Linear(linears.Linear):
    """Writes the loops of one linear layer of integers."""

    def __init__(self, emitter: Emitter, anchor: int, schedule: linears.Schedule, target: Target, dots: bool) -> None:
        super().__init__(emitter, anchor, schedule, target)
        self.dots = dots

    def _accumulate(self, acc: Registers, blocks: list[Any], first: Any, rows: int) -> None:
        if not self.dots:
            super()._accumulate(acc, blocks, first, rows)
            return
        emitter, width, unroll = self.emitter, len(blocks), self.schedule.unroll
        with emitter.lanes(self.lanes) as lane:
            self._start(acc, blocks, rows, lane)
        with emitter.serial(self.inputs // DEPTH // unroll) as outer:
            for q in range(unroll):
                k = outer * unroll + q
                for i in range(rows):
                    four = _four(self.data, *self._row(first + i, k * DEPTH))
                    for j, block in enumerate(blocks):
                        weights = _weights(self.weight, block, k, 0, lanes=self.lanes)
                        add_products(acc, i * width + j, four, weights, self.lanes)
