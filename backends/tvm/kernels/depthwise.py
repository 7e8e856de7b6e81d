"""Depthwise convolution, any kernel, stride, dilation and padding, on blocked tensors.

    result[n, c, y, x] = epilogue(bias[c] + sum over r, s of
                                  input[n, c, y * sy + r * dy - top, x * sx + s * dx - left] * weight[c, 0, r, s])

Several filters a channel (result channels c * m, ..., c * m + m - 1 read channel c) are computed one after the other
for the same block of channels and interleaved as they are stored. FastViT-T8's first downsampling (7x7, stride 2, two
filters a channel) took 5.1 ms by the general template.

A vector is one block of channels. The register tile is some pixels of a row; the taps of one row of the window are
written out, so that a pixel of the input that several taps need is loaded once, and taps outside of the input are left
out (columns) or bound the loop (rows). Threads share out channel blocks and, where these are few, strips of rows.

One core of a Cascade Lake, 3x3: 0.066 ms for [1, 64, 56, 56], 0.009 ms for [1, 256, 14, 14] (55 and 100 GFLOP/s).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template, Tensor, on_stack
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.epilogue import Epilogue, operand_packings
from specc.backends.tvm.kernels.rows import row_taps, share, take_strips
from specc.backends.tvm.packing import Packing
from specc.ir.types import block_of
from specc.targets import Target

Place = tuple[Any, Any, Any, Any]
"""Where a tile is: the image, the block of channels, the row, and the first pixel in it."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a depthwise convolution with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "conv2d" or group.type(anchor).dtype != "float32":
        return None
    step = group.step(anchor)
    data, weight, *bias = step.operands
    x, filters = group.type(data), group.type(weight).concrete[0]
    packings = operand_packings(group, target.lanes, anchor)
    channels = x.concrete[1]
    multiplier = filters // channels
    depthwise = step.attrs["groups"] == channels > 1 and (multiplier == 1 or channels % target.lanes == 0)
    if packings is None or not depthwise or any(v >= len(group.inputs) for v in step.operands):
        return None
    if not all(group.inputs[v].frozen for v in (weight, *bias)) or block_of(x.layout) != target.lanes:
        return None
    packings |= packed(group, anchor, target)
    made = loops(group, anchor, target, choices)
    return Template(lambda emitter: made.write(emitter, None), packings, once=True)


@dataclass(frozen=True)
class Loops:
    """What writes all loops of a group that ends with a depthwise convolution and, where a tensor [n, c, rows, spans]
    is given, sums of the result into it, one for each of the `spans` of a row, which are divided by the mean of their
    lengths: the mean of the tensor is that of the result."""

    spans: int
    write: Callable[[Emitter, Tensor | None], None]


def loops(group: Group, anchor: int, target: Target, choices: Choices) -> Loops:
    """What writes the depthwise convolution `anchor` with its epilogue."""
    batch, _, rows, _ = group.step(anchor).type.concrete
    blocks = -(-group.type(group.step(anchor).operands[0]).concrete[1] // target.lanes)
    pixels = take_pixels(group, anchor, target, choices)
    strips = take_strips(choices, rows, share(rows, batch * blocks))

    def write(emitter: Emitter, sums: Tensor | None) -> None:
        Depthwise(emitter, anchor, pixels, target, sums=sums).emit(strips)

    return Loops(len(spans_of(group, anchor, pixels)), write)


def spans_of(group: Group, anchor: int, pixels: int) -> list[tiles.Span]:
    """The tiles of a row of the depthwise convolution `anchor`, which have `pixels` pixels at most."""
    step = group.step(anchor)
    width, across = (group.type(operand).concrete[3] for operand in step.operands[:2])
    stride, dilation, padding = (step.attrs[name][1] for name in ("stride", "dilation", "padding"))
    return tiles.spans(step.type.concrete[3], pixels, across, stride, dilation, padding, width)


def packed(group: Group, anchor: int, target: Target) -> dict[int, Packing]:
    """How the weights of the depthwise convolution `anchor` are stored, and its bias."""
    data, *weights = group.step(anchor).operands
    multiplier = group.type(weights[0]).concrete[0] // group.type(data).concrete[1]
    return {value: Packing("depthwise", target.lanes, multiplier) for value in weights}


class Depthwise:
    """Writes the loops of one depthwise convolution, whose tiles have `pixels` pixels.

    `source` is what it reads; if none is given, the input of the group that is its operand. Its `epilogue` is the
    group's if no other is given. For `sums`, see `Loops`.
    """

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        pixels: int,
        target: Target,
        source: Tensor | None = None,
        epilogue: Epilogue | None = None,
        sums: Tensor | None = None,
    ) -> None:
        self.emitter, self.source, self.lanes, self.sums = emitter, source, target.lanes, sums
        group, step = emitter.group, emitter.group.step(anchor)
        self.data, self.weight, *bias = step.operands
        self.bias = bias[0] if bias else None
        _, self.channels, self.height, _ = group.type(self.data).concrete
        self.taps = group.type(self.weight).concrete[2]
        self.batch, filters, self.rows, self.columns = step.type.concrete
        self.stride, self.dilation, self.padding = step.attrs["stride"], step.attrs["dilation"], step.attrs["padding"]
        self.multiplier, self.blocks = filters // self.channels, -(-self.channels // self.lanes)
        self.spans = spans_of(group, anchor, pixels)
        self.epilogue = epilogue or Epilogue(emitter, anchor, self.lanes)

    def emit(self, strips: int) -> None:
        """All loops: threads share out the blocks of channels, and strips of rows."""
        emitter = self.emitter
        with emitter.parallel(self.batch * self.blocks * strips) as work:
            outer, strip = emitter.divmod(work, strips)
            n, block = emitter.divmod(outer, self.blocks)
            with emitter.strip(self.rows, strips, strip) as y:
                self.row(n, block, y)

    def row(self, n: Any, block: Any, y: Any) -> None:
        """The tiles of one row of the result for one block of channels."""
        emitter = self.emitter
        for number, span in enumerate(self.spans):
            sums = self._room(span)
            with emitter.serial(span.count) as i:
                place = n, block, y, span.first + i * span.pixels
                if self.multiplier > 1:
                    self._interleaved(place, span)
                    continue
                tile = self.epilogue.tile(span.pixels, [block], summed=self.sums is not None)
                with emitter.lanes(self.lanes) as lane:
                    self._accumulate(tile.accumulators, place, span, block, lane)
                    total = tile.finish(n, *place[2:], lane)
                    if sums is not None:
                        emitter.store(sums, sums[lane] + total, [lane])
                    elif self.sums is not None:
                        self._put(total, n, block, y, number, lane)
                tile.flush(n, *place[2:])
            if sums is not None:
                with emitter.lanes(self.lanes) as lane:
                    self._put(sums[lane], n, block, y, number, lane)

    def _room(self, span: tiles.Span) -> Any:
        """A vector of zeros for the sum of a span that has several tiles, if it is wanted. Of a single tile, the sum is
        stored at once: LLVM would keep what is added to a vector in memory until the end of the row."""
        if self.sums is None or span.count == 1:
            return None
        sums = on_stack((self.lanes,), "float32")
        with self.emitter.lanes(self.lanes) as lane:
            self.emitter.store(sums, tirx.const(0.0, "float32"), [lane])
        return sums

    def _put(self, total: Any, n: Any, block: Any, y: Any, number: int, lane: Any) -> None:
        """Stores the sum of span `number` of a row."""
        assert self.sums is not None
        self.sums.put(total * tirx.const(len(self.spans) / self.columns, "float32"), [n, block, y, number, lane])

    def _read(self, n: Any, block: Any, row: Any, column: Any, lane: Any) -> Any:
        if self.source is None:
            return self.emitter.load(self.data, n, block, row, column, lane)
        return self.source.at(*self.source.position((n, block * self.lanes + lane, row, column)))

    def _accumulate(self, acc: Registers, place: Place, span: tiles.Span, number: Any, lane: Any) -> None:
        """The sums of a tile for filter block `number`; in the vector loop."""
        emitter, (n, block, y, x) = self.emitter, place
        (sy, sx), (dy, dx), (top, left) = self.stride, self.dilation, self.padding[:2]
        zero = tirx.const(0.0, "float32")
        start = zero if self.bias is None else emitter.load(self.bias, number, 0, 0, lane)
        for p in range(span.pixels):
            emitter.store(acc, start, [p, lane])
        low, taps = row_taps(y, self.rows, self.taps, sy, dy, top, self.height)
        with emitter.serial(taps) as r:
            row = y * sy + (low + r) * dy - top
            for s, (begin, end) in enumerate(span.taps):
                if begin == end:
                    continue
                tap: Any = T.Bind(emitter.load(self.weight, number, low + r, s, lane))
                for p in range(begin, end):
                    value = self._read(n, block, row, (x + p) * sx + s * dx - left, lane)
                    emitter.store(acc, acc[p, lane] + value * tap, [p, lane])

    def _interleaved(self, place: Place, span: tiles.Span) -> None:
        """A tile for every filter of the block's channels: all sums first, then their vectors in the result's order."""
        emitter, lanes, multiplier, (n, block, y, x) = self.emitter, self.lanes, self.multiplier, place
        held = on_stack((span.pixels, multiplier * lanes), "float32")
        for m in range(multiplier):
            acc = Registers(span.pixels, lanes, "float32")
            with emitter.lanes(lanes) as lane:
                self._accumulate(acc, place, span, block * multiplier + m, lane)
                for p in range(span.pixels):
                    emitter.store(held, acc[p, lane], [p, m * lanes + lane])
        for q in range(multiplier):
            tile = self.epilogue.tile(span.pixels, [block * multiplier + q])
            with emitter.lanes(lanes) as lane:
                channel, m = emitter.divmod(q * lanes + lane, multiplier)
                for p in range(span.pixels):
                    emitter.store(tile.accumulators, held[p, m * lanes + channel], [p, lane])
                tile.finish(n, y, x, lane)
            tile.flush(n, y, x)


def take_pixels(group: Group, anchor: int, target: Target, choices: Choices) -> int:
    """The tile: balanced along the row, and with it the row's inputs and one row of weights in registers; where these
    leave less, a part of the registers holds sums all the same, and what does not fit is read again from the nearest
    cache: on x86 a half, as a multiply-add takes its input from memory there, and a fourth elsewhere.

    One core of the Granite Rapids generation, with vectors of 512 and 256 bits, beside as many pixels as the registers
    leave (one for the long windows): 31x31 on 28x28 0.17 and 0.19 of the time, 1x31 0.69 and 0.48, 13x13 - and 0.30,
    9x9 - and 0.71, 7x7 - and 0.86.

    With a stride, a tile has more inputs, and LLVM spills some of them (5x5, stride 2, on 56x56: 51 GFLOP/s with 14
    pixels, 61 with 10).
    """
    step = group.step(anchor)
    columns, taps = step.type.concrete[3], group.type(step.operands[1]).concrete[3]
    least = target.vector_registers // (2 if target.architecture == "x86_64" else 4)
    held = max(target.vector_registers - 3 - taps, least)
    most = min(14 if step.attrs["stride"][1] == 1 else 10, held)
    default = tiles.balanced(columns, most)[0]
    sizes = (tiles.balanced(columns, pixels)[0] for pixels in range(1, target.vector_registers - 2))
    return choices.near("pixels", sizes, default)
