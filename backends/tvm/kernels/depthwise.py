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

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template, on_stack
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.epilogue import Epilogue, operand_packings
from specc.backends.tvm.kernels.rows import row_taps, share, take_strips
from specc.backends.tvm.packing import Packing
from specc.ir.types import block_of
from specc.targets import Target


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
    packings |= {value: Packing("depthwise", target.lanes, multiplier) for value in (weight, *bias)}
    batch, _, rows, columns = step.type.concrete
    pixels = _pixels(columns, group.type(weight).concrete[3], step.attrs["stride"][1], target, choices)
    strips = take_strips(choices, rows, share(rows, batch * -(-channels // target.lanes)))
    return Template(lambda emitter: _emit(emitter, anchor, pixels, strips, target), packings)


def _emit(emitter: Emitter, anchor: int, pixels: int, strips: int, target: Target) -> None:
    step = emitter.group.step(anchor)
    data, weight, *bias = step.operands
    _, _, height, width = emitter.group.type(step.operands[0]).concrete
    kh, kw = emitter.group.type(step.operands[1]).concrete[2:]
    channels = emitter.group.type(step.operands[0]).concrete[1]
    batch, filters, rows, columns = step.type.concrete
    (sy, sx), (dy, dx), (top, left) = step.attrs["stride"], step.attrs["dilation"], step.attrs["padding"][:2]
    lanes, multiplier, blocks = target.lanes, filters // channels, -(-channels // target.lanes)
    epilogue = Epilogue(emitter, anchor, lanes)

    def accumulate(acc: Registers, place: tuple[Any, Any, Any, Any], span: tiles.Span, number: Any, lane: Any) -> None:
        """The sums of a tile for filter block `number`; in the vector loop."""
        n, block, y, x = place
        start = emitter.load(bias[0], number, 0, 0, lane) if bias else tirx.const(0.0, "float32")
        for p in range(span.pixels):
            emitter.store(acc, start, [p, lane])
        low, taps = row_taps(y, rows, kh, sy, dy, top, height)
        with emitter.serial(taps) as r:
            row = y * sy + (low + r) * dy - top
            for s, (begin, end) in enumerate(span.taps):
                if begin == end:
                    continue
                tap: Any = T.Bind(emitter.load(weight, number, low + r, s, lane))
                for p in range(begin, end):
                    value = emitter.load(data, n, block, row, (x + p) * sx + s * dx - left, lane)
                    emitter.store(acc, acc[p, lane] + value * tap, [p, lane])

    def interleaved(place: tuple[Any, Any, Any, Any], span: tiles.Span) -> None:
        """A tile for every filter of the block's channels: all sums first, then their vectors in the result's order."""
        n, block, y, x = place
        held = on_stack((span.pixels, multiplier * lanes), "float32")
        for m in range(multiplier):
            acc = Registers(span.pixels, lanes, "float32")
            with emitter.lanes(lanes) as lane:
                accumulate(acc, place, span, block * multiplier + m, lane)
                for p in range(span.pixels):
                    emitter.store(held, acc[p, lane], [p, m * lanes + lane])
        for q in range(multiplier):
            tile = epilogue.tile(span.pixels, [block * multiplier + q])
            with emitter.lanes(lanes) as lane:
                channel, m = emitter.divmod(q * lanes + lane, multiplier)
                for p in range(span.pixels):
                    emitter.store(tile.accumulators, held[p, m * lanes + channel], [p, lane])
                tile.finish(n, y, x, lane)
            tile.flush(n, y, x)

    with emitter.parallel(batch * blocks * strips) as work:
        outer, strip = emitter.divmod(work, strips)
        n, block = emitter.divmod(outer, blocks)
        with emitter.strip(rows, strips, strip) as y:
            for span in tiles.spans(columns, pixels, kw, sx, dx, left, width):
                with emitter.serial(span.count) as i:
                    x = span.first + i * span.pixels
                    if multiplier > 1:
                        interleaved((n, block, y, x), span)
                        continue
                    tile = epilogue.tile(span.pixels, [block])
                    with emitter.lanes(lanes) as lane:
                        accumulate(tile.accumulators, (n, block, y, x), span, block, lane)
                        tile.finish(n, y, x, lane)
                    tile.flush(n, y, x)


def _pixels(columns: int, taps: int, stride: int, target: Target, choices: Choices) -> int:
    """The tile: balanced along the row, and with it the row's inputs and one row of weights in registers.

    With a stride, a tile has more inputs, and LLVM spills some of them (5x5, stride 2, on 56x56: 51 GFLOP/s with 14
    pixels, 61 with 10).
    """
    most = min(14 if stride == 1 else 10, target.vector_registers - 3 - taps)
    default = tiles.balanced(columns, max(1, most))[0]
    sizes = (tiles.balanced(columns, pixels)[0] for pixels in range(1, target.vector_registers - 2))
    return choices.near("pixels", sizes, default)
