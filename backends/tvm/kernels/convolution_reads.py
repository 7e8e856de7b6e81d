"""What the register tiles of a convolution read: where it lies, how it is widened, and what is asked for ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.convolution_plan import Geometry
from specc.backends.tvm.kernels.epilogue import Epilogue
from specc.backends.tvm.kernels.fetch import soon
from specc.backends.tvm.kernels.rows import Rows


@dataclass(frozen=True)
class Place:
    """Where a register tile is: `span.pixels` results of row y from x on, for each of `blocks`; it is tile number
    `number` of its strip. Of the window's rows, `taps` lie inside the input, from number `low` on. What is added up
    are the blocks of channels of chunk number `chunk`."""

    n: Any
    blocks: Sequence[Any]
    y: Any
    x: Any
    span: tiles.Span
    number: Any
    low: Any
    taps: Any
    chunk: Any = 0


class Reads:
    """The elements that tiles read of `source`, or of the group's input `data` where that is None, in blocks of `inner`
    channels, of which a chunk has `channels`; `wide` is memory for what is widened of them."""

    emitter: Emitter
    geometry: Geometry
    epilogue: Epilogue
    source: Rows | None
    data: Any
    operands: Sequence[int]
    inner: int
    lanes: int
    channels: int
    wide: Any

    def _pixel(self, y: Any, x: Any) -> tuple[Any, Any]:
        """The row and column of a result."""
        return (0, y * self.geometry.columns + x) if self.geometry.flat else (y, x)

    def _offsets(self, span: tiles.Span) -> list[int]:
        """The columns that a tile reads, from the one of its first pixel and the first tap on."""
        g = self.geometry
        taps = enumerate(span.taps)
        return sorted({i * g.stride[1] + s * g.dilation[1] for s, pixels in taps for i in range(*pixels)})

    def _channel(self, number: Any) -> Any:
        """Which block of the input's channels is number `number` of the reduction."""
        return number

    def _read(self, place: Place, channel: Any, tap: Any, offset: int) -> list[Any]:
        """Where the block of channels lies that a tile reads at a row of the window and a column."""
        g, channel = self.geometry, self._channel(channel)
        if g.flat:
            return [place.n, channel, *self._pixel(place.y, place.x + offset)]
        row = place.y * g.stride[0] + tap * g.dilation[0] - g.padding[0]
        return [place.n, channel, row, place.x * g.stride[1] + offset - g.padding[1]]

    def _load(self, at: Sequence[Any], lane: Any) -> Any:
        """A channel of a block of what is read."""
        if self.source is not None:
            _, block, row, column = at
            return self.source.at(*self.source.place(block, row, column, lane))
        return self.emitter.load(self.operands[0], *([*at, lane] if self.inner > 1 else at))

    def _widen(self, place: Place) -> None:
        """Writes what a tile reads of 16 bits as float32: the products read each number for every output block, and for
        every tap that has it."""
        emitter, first, offsets = self.emitter, place.chunk * self.channels, self._offsets(place.span)
        lanes = emitter.lanes(self.inner)
        with emitter.serial(self.channels) as channel, emitter.serial(place.taps) as r, lanes as lane:
            for number, offset in enumerate(offsets):
                at = self._read(place, first + channel, place.low + r, offset)
                value = emitter.load(self.operands[0], *at, lane)
                emitter.store(self.wide, value, [channel, r, number, lane])

    def _ask_for_inputs(self, place: Place, channel: Any, r: Any, line: Any, least: int) -> None:
        """Asks for a line, of number `line` >= `least`, of what the next row of the window reads: in block `channel` of
        the chunk, in the next one, or in the first one for the next tile."""
        g, span = self.geometry, place.span
        window = (g.kernel[1] - 1) * g.dilation[1] + 1
        apart = g.stride[1] if window < g.stride[1] else 1
        if least >= ((span.pixels - 1) * g.stride[1] + window + apart - 1) // apart:
            return
        last = channel == self.channels - 1
        following, row = tirx.Select(last, 0, channel + 1), place.low
        if not isinstance(place.taps, int) or place.taps > 1:
            more = r < place.taps - 1
            following = tirx.Select(more, channel, following)
            row = tirx.Select(more, place.low + r + 1, place.low)
            last = tirx.And(last, tirx.Not(more))
        x = place.x + tirx.Select(last, span.pixels, 0)
        if g.flat:
            y, column = self._pixel(place.y, x + line)
        else:
            y = place.y * g.stride[0] + row * g.dilation[0] - g.padding[0]
            column = x * g.stride[1] + line * apart - g.padding[1]
        soon(self.data, place.n, self._channel(place.chunk * self.channels + following), y, column, 0)

    def _ask_for_results(self, place: Place, channel: Any, pixel: Any) -> None:
        """Asks for what the epilogue reads and writes for a pixel: of one output block for each block of channels."""
        block = place.blocks[-1]
        for j in reversed(range(len(place.blocks) - 1)):
            block = tirx.Select(channel == j, place.blocks[j], block)
        y, x = self._pixel(place.y, place.x + pixel)
        for tensor in self.epilogue.tensors:
            soon(tensor.buffer, *tensor.position((place.n, block * self.lanes, y, x)))
