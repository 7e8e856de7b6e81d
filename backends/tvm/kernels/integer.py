"""Convolutions and linear layers of integers: uint8 activations, int8 weights, sums in 32 bits.

The loops and tiles are those of the layers of real numbers (`convolution`, `linear`). On a target with an instruction
for it, four products at a time are added up (`dots`). Elsewhere, both factors are widened first.

A layer that reads at most four channels, as the first of a network does, takes them plainly: the channels of a pixel
are put side by side in memory of the kernel, so that they are the four of one instruction.

Taps outside of the operand read `outside`, the integer that stands for 0. Where that is 0 for the instruction they are
left out, as they are for real numbers; otherwise they multiply a constant: such rows and columns lie at the border.

One core of a Cascade Lake at 2.5 GHz: see docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import convolution as convolutions
from specc.backends.tvm.kernels import convolution_plan
from specc.backends.tvm.kernels import linear as linears
from specc.backends.tvm.kernels.convolution_reads import Place
from specc.backends.tvm.kernels.dots import DEPTH, Dots, imported
from specc.backends.tvm.kernels.epilogue import operand_packings
from specc.backends.tvm.packing import Packing
from specc.ir.types import block_of
from specc.targets import Target


def convolution(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a dense convolution of integers; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "conv2d_integer":
        return None
    step = group.step(anchor)
    data, weight, *bias = step.operands
    packings = operand_packings(group, target.lanes, anchor)
    x = group.type(data)
    few = not x.layout and x.concrete[1] <= DEPTH
    if packings is None or step.attrs["groups"] != 1 or not (few or block_of(x.layout) == target.lanes):
        return None
    if not all(group.inputs[v].frozen for v in (weight, *bias)):
        return None
    dots = Dots(target) if target.dot_product else None
    inner = (DEPTH if dots else 1) if few else target.lanes
    packings[weight] = dots.packing(inner) if dots else Packing("convolution", target.lanes, inner)
    packings |= {value: Packing("padded", target.lanes) for value in bias}
    geometry = convolution_plan.geometry_of(group, anchor, target, choices)
    steps, tiled = (inner // DEPTH, dots.tiled(target, reserve=4)) if dots else (inner, target)
    unroll = steps if dots and not dots.by_element else convolution_plan.UNROLL
    schedule = convolution_plan.schedule_of(geometry, steps, tiled, choices, size=1, fetch=False, unroll=unroll)

    def write(emitter: Emitter) -> None:
        with imported(dots):
            _Convolution(emitter, anchor, geometry, schedule, inner, target, dots).emit()

    return Template(write, packings, once=True)


def linear(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a linear layer of integers; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "linear_integer":
        return None
    inputs = group.type(group.step(anchor).operands[0]).concrete[-1]
    dots = Dots(target) if target.dot_product and inputs % DEPTH == 0 else None
    packed = dots.packing(DEPTH) if dots else Packing("matrix", target.lanes)
    packings = linears.operands_of(group, anchor, packed, target)
    if packings is None:
        return None
    depth, written = (DEPTH, dots.written) if dots else (1, 2)
    tiled = dots.tiled(target, reserve=6) if dots else target
    schedule = linears.schedule_of(
        linears.shape_of(group, anchor), tiled, choices, size=1, depth=depth, written=written, fetch=dots is None
    )
    return Template(lambda emitter: _Linear(emitter, anchor, schedule, target, dots).emit(), packings)


class _Convolution(convolutions.Convolution):
    """Writes the loops of one convolution of integers."""

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        geometry: convolution_plan.Geometry,
        schedule: convolution_plan.Schedule,
        inner: int,
        target: Target,
        dots: Dots | None,
    ) -> None:
        super().__init__(emitter, anchor, geometry, schedule, inner, target)
        self.dots = dots
        step = emitter.group.step(anchor)
        self.few = not emitter.group.type(step.operands[0]).layout
        """Whether the operand has so few channels that they stand in no blocks."""
        self.outside: int = step.attrs["outside"]
        self.border = self.outside != (dots.lowered if dots else 0)
        """Whether taps outside of the operand count."""

    def emit(self) -> None:
        """All loops; in front of them, what puts few channels side by side."""
        if self.few and self.dots:
            self.data = self._pixels()
        super().emit()

    def _pixels(self) -> Any:
        """The operand with the channels of a pixel side by side, and zeros beyond the last one: [n, 1, h, w, 4]."""
        emitter, g, lanes = self.emitter, self.geometry, self.lanes
        pixels = T.alloc_buffer((g.batch, 1, g.in_height, g.in_width, DEPTH), "uint8")
        whole, rest = divmod(g.in_width, lanes)
        with emitter.parallel(g.batch * g.in_height) as work:
            n, y = emitter.divmod(work, g.in_height)
            with emitter.serial(whole) as i:
                total = tirx.Broadcast(tirx.const(0, "int32"), lanes)
                for c in range(g.in_channels):
                    channel = tirx.BufferLoad(self.data, [n, c, y, tirx.Ramp(i * lanes, 1, lanes)])
                    shift = tirx.Broadcast(tirx.const(8 * c, "int32"), lanes)
                    total = total | (tirx.Cast(f"int32x{lanes}", channel) << shift)
                bytes_ = tirx.reinterpret(f"uint8x{DEPTH * lanes}", total)
                T.buffer_store(pixels, bytes_, [n, 0, y, i * lanes, tirx.Ramp(0, 1, DEPTH * lanes)])
            with emitter.serial(rest, whole * lanes) as x:
                for c in range(DEPTH):
                    value = self.data[n, c, y, x] if c < g.in_channels else tirx.const(0, "uint8")
                    emitter.store(pixels, value, [n, 0, y, x, c])
        return pixels

    def _tile(self, place: Place) -> None:
        emitter, g, count = self.emitter, self.geometry, len(place.blocks)
        n, blocks, y, x, span = place.n, place.blocks, place.y, place.x, place.span
        tile = self.epilogue.tile(span.pixels, blocks)
        acc = tile.accumulators
        sums = self.dots.registers(acc, span.pixels * count) if self.dots else acc
        if self.dots:
            for j, block in enumerate(blocks):
                self.dots.start(sums, range(j, span.pixels * count, count), self.weight, block, self.bias)
        else:
            with emitter.lanes(self.lanes) as lane:
                for j, block in enumerate(blocks):
                    start = tirx.const(0, "int32") if self.bias is None else self.bias[block * self.lanes + lane]
                    for i in range(span.pixels):
                        emitter.store(acc, start, [i * count + j, lane])
        low, taps = place.low, place.taps
        everywhere = [(0, span.pixels)] * g.kernel[1]
        with emitter.serial(-(-g.in_channels // self.inner)) as channel:
            with emitter.serial(taps) as r:
                for s, inside in enumerate(span.taps):
                    self._taps(sums, n, blocks, (y, x), channel, (low + r, s), range(*inside), everywhere[s])
            if self.border:
                with emitter.serial(low) as r:
                    for s, pixels in enumerate(everywhere):
                        self._taps(sums, n, blocks, (y, x), channel, (r, s), range(0), pixels)
                with emitter.serial(g.kernel[0] - low - taps, low + taps) as r:
                    for s, pixels in enumerate(everywhere):
                        self._taps(sums, n, blocks, (y, x), channel, (r, s), range(0), pixels)
        if self.dots:
            self.dots.gathered(sums, acc, span.pixels * count)
        at = (n, *self._pixel(y, x))
        with emitter.lanes(self.lanes) as lane:
            tile.finish(*at, lane)
        tile.flush(*at)

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
        reading = [i for i in range(*pixels) if i in inside or self.border]
        if not reading:
            return

        def at(column: int) -> list[Any]:
            """The place of the operand that lies `column` columns behind what the first pixel reads."""
            if g.flat:
                return [n, channel, 0, y * g.columns + x + column]
            row = y * g.stride[0] + r * g.dilation[0] - g.padding[0]
            return [n, channel, row, x * g.stride[1] + s * g.dilation[1] - g.padding[1] + column]

        if self.dots:
            dots, steps, unroll = self.dots, self.inner // DEPTH, self.schedule.unroll
            with emitter.serial(steps // unroll) as outer:
                dots.part()
                columns = [i * g.stride[1] for i in reading if i in inside]
                offsets = [column * steps + q for column in columns for q in range(unroll)]
                first = outer * unroll

                def four(offset: int) -> list[Any]:
                    column, q = divmod(offset, steps)
                    return [*at(column), (first + q) * DEPTH]

                found = dots.fours(self.data, offsets, four)
                border = dots.constant(self.outside)
                for q in range(unroll):
                    number = ((channel * g.kernel[0] + r) * g.kernel[1] + s) * steps + first + q
                    vectors = [dots.weights(self.weight, block, number) for block in blocks]
                    for i in reading:
                        value = found[i * g.stride[1] * steps + q] if i in inside else border
                        for j in range(count):
                            dots.add(acc, i * count + j, value, vectors[j])
            return
        with emitter.serial(self.inner) as i_lane, emitter.lanes(self.lanes) as lane:
            for i in reading:
                value = tirx.const(self.outside, "int32")
                if i in inside:
                    at_pixel = at(i * g.stride[1])
                    value = tirx.Cast("int32", self.data[tuple(at_pixel if self.few else (*at_pixel, i_lane))])
                for j, block in enumerate(blocks):
                    weight = tirx.Cast("int32", self.weight[block, channel, r, s, i_lane, lane])
                    position = [i * count + j, lane]
                    emitter.store(acc, acc[tuple(position)] + value * weight, position)


class _Linear(linears.Linear):
    """Writes the loops of one linear layer of integers."""

    def __init__(
        self, emitter: Emitter, anchor: int, schedule: linears.Schedule, target: Target, dots: Dots | None
    ) -> None:
        super().__init__(emitter, anchor, schedule, target)
        self.dots = dots

    def _accumulate(self, acc: Registers, blocks: list[Any], first: Any, rows: int) -> None:
        if not self.dots:
            super()._accumulate(acc, blocks, first, rows)
            return
        emitter, dots, width, unroll = self.emitter, self.dots, len(blocks), self.schedule.unroll
        sums = dots.registers(acc, rows * width)
        for j, block in enumerate(blocks):
            dots.start(sums, range(j, rows * width, width), self.weight, block, self.bias)
        with emitter.serial(self.inputs // DEPTH // unroll) as outer:
            found = [self._fours(dots, first + i, outer * unroll, unroll) for i in range(rows)]
            vectors = [
                [dots.weights(self.weight, block, outer * unroll + q) for block in blocks] for q in range(unroll)
            ]
            # A vector of a row's inputs is to be done with before the next one's is read.
            order = sorted(product(range(unroll), range(rows)), key=lambda at: at[::-1] if dots.by_element else at)
            for q, i in order:
                for j in range(width):
                    dots.add(sums, i * width + j, found[i][q], vectors[q][j])
        dots.gathered(sums, acc, rows * width)

    def _fours(self, dots: Dots, row: Any, step: Any, count: int) -> dict[int, Any]:
        """The inputs of a row for `count` steps of the reduction, from `step` on."""
        return dots.fours(self.data, range(count), lambda q: self._row(row, (step + q) * DEPTH))
