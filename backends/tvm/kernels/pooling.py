"""Pooling over two-dimensional windows, on blocked tensors.

    result[n, c, y, x] = epilogue(max, or mean, over r, s of input[n, c, y * sy + r - top, x * sx + s - left])

As in a depthwise convolution (`depthwise`), a vector is one block of channels and the register tile some pixels of a
row; taps outside of the input are left out (columns) or bound the loop (rows). A mean over the taps inside alone is
their sum times a number that a row and a pixel's column determine.

The greatest of numbers of which one is NaN is NaN: each number is compared with itself besides, once for all windows
that a tile has it in. On one core of the Granite Rapids generation, 3x3 with stride 2 takes 1.0 of the time without
that with vectors of 512 bits and 1.3 with those of 256, 5x5 with stride 1 1.2 and 2.7 (68 microseconds for
[1, 256, 20, 20]).

One core of a Cascade Lake, the greatest of 3x3, stride 2, [1, 64, 112, 112]: 0.28 ms (1.3 by the
general template).
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.expression import Scalar, least
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.epilogue import Epilogue, operand_packings
from specc.backends.tvm.kernels.rows import row_taps, share, take_strips
from specc.ir.dtypes import HALVES
from specc.ir.types import block_of
from specc.targets import Target

_PIXELS = 8
"""Pixels of a tile, unless it is chosen otherwise."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a pooling with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op not in ("max_pool2d", "avg_pool2d"):
        return None
    (data,) = group.step(anchor).operands
    x = group.type(data)
    packings = operand_packings(group, target.lanes, anchor)
    if (
        packings is None
        or x.dtype not in ("float32", "uint8", *HALVES)
        or block_of(x.layout) != target.lanes
        or not target.vectors
    ):
        return None
    batch, channels, rows, columns = group.type(anchor).concrete
    sizes = (tiles.balanced(columns, pixels)[0] for pixels in range(1, target.vector_registers - 2))
    pixels = choices.near("pixels", sizes, tiles.balanced(columns, _PIXELS)[0])
    strips = take_strips(choices, rows, share(rows, batch * -(-channels // target.lanes)))
    return Template(lambda emitter: _emit(emitter, anchor, pixels, strips, target), packings, once=True)


def _emit(emitter: Emitter, anchor: int, pixels: int, strips: int, target: Target) -> None:
    step = emitter.group.step(anchor)
    data = emitter.input(step.operands[0])
    _, channels, height, width = emitter.group.type(step.operands[0]).concrete
    batch, _, rows, columns = step.type.concrete
    (kh, kw), (sy, sx), (top, left) = step.attrs["k"], step.attrs["stride"], step.attrs["padding"][:2]
    greatest = step.op == "max_pool2d"
    first = least(step.type.dtype) if greatest else tirx.const(0.0, "float32")
    whole = greatest or step.attrs["count_padding"] or not any(step.attrs["padding"])
    epilogue = Epilogue(emitter, anchor, target.lanes)

    def pool(acc: Registers, place: tuple[Any, Any, Any, Any], span: tiles.Span, lane: Any) -> None:
        """The results of a tile; in the vector loop."""
        n, block, y, x = place
        for p in range(span.pixels):
            emitter.store(acc, first, [p, lane])
        low, taps = row_taps(y, rows, kh, sy, 1, top, height)
        with emitter.serial(taps) as r:
            for s, (begin, end) in enumerate(span.taps):
                for p in range(begin, end):
                    so_far = Scalar(acc[p, lane])
                    value = Scalar(data.at(n, block, y * sy + low + r - top, (x + p) * sx + s - left, lane))
                    emitter.store(acc, emitter.math.max(value, so_far) if greatest else so_far + value, [p, lane])
        if greatest:
            return
        share = 1.0 / prod((kh, kw)) if whole else T.Bind(tirx.const(1.0, "float32") / tirx.Cast("float32", taps))
        for p in range(span.pixels):
            inside = sum(begin <= p < end for begin, end in span.taps)
            emitter.store(acc, acc[p, lane] * (share if whole else share * (1.0 / max(1, inside))), [p, lane])

    blocks = -(-channels // target.lanes)
    with emitter.parallel(batch * blocks * strips) as work:
        outer, strip = emitter.divmod(work, strips)
        n, block = emitter.divmod(outer, blocks)
        with emitter.strip(rows, strips, strip) as y:
            for span in tiles.spans(columns, pixels, kw, sx, 1, left, width):
                with emitter.serial(span.count) as i:
                    x = span.first + i * span.pixels
                    tile = epilogue.tile(span.pixels, [block])
                    with emitter.lanes(target.lanes) as lane:
                        pool(tile.accumulators, (n, block, y, x), span, lane)
                        tile.finish(n, y, x, lane)
                    tile.flush(n, y, x)
