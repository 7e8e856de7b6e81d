"""Depthwise convolution, any kernel, stride, dilation and padding, on plain tensors: each channel is a plane.

    result[n, c, y, x] = epilogue(bias[c] + sum over r, s of
                                  input[n, c // m, y * sy + r * dy - top, x * sx + s * dx - left] * weight[c, 0, r, s])

With fewer channels than a block holds, or between slices and concats of such, tensors stay plain (`passes/layout.py`),
and a vector is neighbours of a row. The rows that a strip of the result needs are copied to memory of the thread, with
zeros around them where a window reaches outside of the input, so that there is neither a branch nor a mask around the
arithmetic; of a stride of two, even and odd columns lie apart. The nearest cache holds the copy.

The register tile is some vectors of a few rows. A vector of the copy is loaded once for all rows of the tile, as most
begin within a line of the cache and take two loads. Of windows of more than `_WRITTEN` taps, a loop over their rows, it
is loaded for each. Threads share out channels and strips of rows.

One core of the Granite Rapids generation at 3.7 GHz, least times in microseconds, by the general template and by this
one:

    12 channels at 112x112, 3x3                 209   25
    8 channels at 112x112, 3x3, with an addend  187   23
    12 channels from 112x112, 3x3, stride 2      55   12
    10 channels at 56x56, 7x7                   214   40
                          1x11                   56   12
                          11x1                   63    8
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.rows import share
from specc.ir.dtypes import DTYPES, HALVES
from specc.targets import Target

_VECTORS = 4
"""Vectors of a row in a tile, at most."""

_WRITTEN = 64
"""Of so many taps at most, the products of all rows of a tile are written out."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a depthwise convolution of plain tensors with its epilogue; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "conv2d" or not target.vectors:
        return None
    step = group.step(anchor)
    x, y = group.type(step.operands[0]), step.type
    if step.attrs["groups"] != x.concrete[1] or x.concrete[1] == 1 or 0 in (*x.concrete, *y.concrete):
        return None
    if y.dtype != "float32" or x.dtype not in ("float32", *HALVES) or group.result.shape != y.shape:
        return None
    if x.layout or y.layout or group.result.layout:
        return None
    geometry = Geometry(group, anchor)
    batch, channels, rows, columns = y.concrete
    counts = [count for count in range(1, rows + 1) if rows % count == 0]
    enough = share(rows, batch * channels)
    fitting = [n for n in counts if n >= enough and 2 * geometry.copied(rows // n, target.lanes) <= target.l1_bytes]
    strips = choices.near("strips", counts, min(fitting, default=rows))
    most = target.vector_registers // 2
    whole = max(1, columns // target.lanes)
    vectors = choices.near("vectors", range(1, min(whole, most) + 1), tiles.balanced(whole, min(_VECTORS, most))[0])
    height = rows // strips
    side = choices.near("rows", range(1, height + 1), tiles.balanced(height, max(1, most // vectors))[0])
    return Template(lambda emitter: Planes(emitter, anchor, geometry, target, strips, vectors, side).emit())


class Geometry:
    """The extents of a depthwise convolution of plain tensors, and where in a copy of its rows the columns lie.

    A copy is [stride, rows, columns]: part p has the columns p, p + stride, ... of the input, `front` places of zeros
    in front of them.
    """

    def __init__(self, group: Group, anchor: int) -> None:
        step = group.step(anchor)
        self.data, self.weight, *bias = step.operands
        self.bias = bias[0] if bias else None
        _, self.channels, self.height, self.width = group.type(self.data).concrete
        self.batch, self.filters, self.rows, self.columns = step.type.concrete
        self.taps = group.type(self.weight).concrete[2:]
        self.stride: tuple[int, int] = step.attrs["stride"]
        self.dilation: tuple[int, int] = step.attrs["dilation"]
        padding: tuple[int, ...] = step.attrs["padding"]
        self.top, self.left = padding[:2]

    def held(self, rows: int) -> int:
        """The rows of the input that so many rows of the result read."""
        return (rows - 1) * self.stride[0] + (self.taps[0] - 1) * self.dilation[0] + 1

    def tap(self, s: int) -> tuple[int, int]:
        """The part of a copy that tap `s` of a row reads, and how far in it from the place of the result."""
        shift, part = divmod(s * self.dilation[1] - self.left, self.stride[1])
        return part, shift

    def front(self, lanes: int) -> int:
        """Places in front of a row, whole vectors."""
        return -(-max(0, -self.tap(0)[1]) // lanes) * lanes

    def part(self, number: int) -> int:
        """The columns of the input in part `number`."""
        return max(0, -(-(self.width - number) // self.stride[1]))

    def pitch(self, lanes: int) -> int:
        """From one row of a copy to the next: whole vectors, and what the last vector of a row reads lies in it."""
        reach = max(self.part(0), -(-self.columns // lanes) * lanes + max(0, self.tap(self.taps[1] - 1)[1]))
        return self.front(lanes) + -(-reach // lanes) * lanes

    def copied(self, rows: int, lanes: int) -> int:
        """The bytes of a copy for so many rows of the result."""
        return DTYPES["float32"] * self.stride[1] * self.held(rows) * self.pitch(lanes)


class Planes:
    """Writes the loops of one convolution: tiles of `vectors` vectors and `side` rows."""

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        geometry: Geometry,
        target: Target,
        strips: int,
        vectors: int,
        side: int,
    ) -> None:
        self.emitter, self.anchor, self.geometry, self.lanes = emitter, anchor, geometry, target.lanes
        self.strips, self.vectors, self.side = strips, vectors, side
        self.input = emitter.input(geometry.data)
        self.front, self.pitch = geometry.front(self.lanes), geometry.pitch(self.lanes)

    def emit(self) -> None:
        """All loops."""
        emitter, g = self.emitter, self.geometry
        rows = g.rows // self.strips
        with emitter.parallel(g.batch * g.filters * self.strips) as work:
            outer, strip = emitter.divmod(work, self.strips)
            n, channel = emitter.divmod(outer, g.filters)
            copy = T.alloc_buffer((g.stride[1], g.held(rows), self.pitch), "float32")
            source = emitter.divmod(channel, g.filters // g.channels)[0]
            with emitter.serial(g.held(rows)) as held:
                self._copy(copy, (n, source), strip * rows * g.stride[0] - g.top + held, held)
            for first, count, side in tiles.runs(rows, self.side):
                with emitter.serial(count) as number:
                    begin = first + number * side
                    for start, vectors, lanes in self._spans():
                        with emitter.serial(vectors[0]) as i:
                            x = start + i * vectors[1] * self.lanes
                            self._tile(copy, (n, channel, strip * rows), begin, side, x, vectors[1], lanes)

    def _spans(self) -> list[tuple[int, tuple[int, int], int]]:
        """A row in tiles: where a run of them starts, how many with how many vectors, and the lanes that are stored."""
        whole, rest = divmod(self.geometry.columns, self.lanes)
        runs = tiles.runs(whole, self.vectors) if whole else []
        spans = [(first * self.lanes, (count, vectors), self.lanes) for first, count, vectors in runs]
        return [*spans, *([(whole * self.lanes, (1, 1), rest)] if rest else [])]

    def _copy(self, copy: Any, place: Index, row: Any, held: Any) -> None:
        """Row number `row` of a plane of the input, or zeros where it is outside, as row `held` of a copy."""
        g = self.geometry
        if g.top <= 0 and self._last() < g.height:
            return self._inside(copy, place, row, held)
        with T.If(tirx.all(row >= 0, row < g.height)):
            with T.Then():
                self._inside(copy, place, row, held)
            with T.Else():
                for part in range(g.stride[1]):
                    self._zeros(copy, part, held, 0, self.pitch)

    def _last(self) -> int:
        """The last row of the input, or behind it, that is read."""
        return self.geometry.held(self.geometry.rows) - 1 - self.geometry.top

    def _inside(self, copy: Any, place: Index, row: Any, held: Any) -> None:
        """A row of the input, and zeros around it."""
        g, lanes = self.geometry, self.lanes
        for part in range(g.stride[1]):
            end = self.front + g.part(part)
            self._zeros(copy, part, held, 0, self.front)
            self._zeros(copy, part, held, end // lanes * lanes, self.pitch)
        if g.stride[1] == 2 and self.input.type.dtype == "float32":
            return self._apart(copy, place, row, held)
        for part in range(g.stride[1]):
            self._columns(copy, place, row, held, part, 0, g.part(part))

    def _apart(self, copy: Any, place: Index, row: Any, held: Any) -> None:
        """Even and odd columns: two vectors of the input are two of the copy."""
        emitter, pairs = self.emitter, self.geometry.width // 2
        for start, count, lanes in tiles.vectors(pairs, self.lanes):
            if lanes == 1:  # no vector
                for part in range(2):
                    self._columns(copy, place, row, held, part, start, start + 1)
                continue
            with emitter.serial(count) as number:
                x = start + number * self.lanes
                ramps = (tirx.Ramp(2 * x + half * lanes, 1, lanes) for half in range(2))
                loads = [T.Bind(tirx.BufferLoad(self.input.buffer, [*place, row, ramp])) for ramp in ramps]
                for part in range(2):
                    value = tirx.Shuffle(loads, list(range(part, 2 * lanes, 2)))
                    T.buffer_store(copy, value, [part, held, tirx.Ramp(self.front + x, 1, lanes)])
        if self.geometry.width % 2:
            self._columns(copy, place, row, held, 0, pairs, pairs + 1)

    def _columns(self, copy: Any, place: Index, row: Any, held: Any, part: int, begin: int, end: int) -> None:
        """The columns of a part of a copy from number `begin` to `end`."""
        emitter, stride = self.emitter, self.geometry.stride[1]
        for start, count, lanes in tiles.vectors(end - begin, self.lanes):
            with emitter.serial(count) as number, emitter.lanes(lanes) as lane:
                x = begin + start + number * self.lanes + lane
                emitter.store(copy, self.input.at(*place, row, x * stride + part), [part, held, self.front + x])

    def _zeros(self, copy: Any, part: int, held: Any, begin: int, end: int) -> None:
        """Zeros in whole vectors of a row of a copy."""
        emitter, zero = self.emitter, tirx.const(0.0, "float32")
        if begin < end:
            with emitter.serial((end - begin) // self.lanes) as number, emitter.lanes(self.lanes) as lane:
                emitter.store(copy, zero, [part, held, begin + number * self.lanes + lane])

    def _tile(self, copy: Any, place: Index, begin: Any, side: int, x: Any, vectors: int, lanes: int) -> None:
        """So many vectors of `side` rows, from row `begin` of a strip and column `x` on; `place` is the image, the
        channel, and the first row of the strip. Of the last vector, `lanes` are stored."""
        emitter, (n, channel, strip) = self.emitter, place
        acc = Registers(side * vectors, self.lanes, "float32")
        with emitter.lanes(self.lanes) as lane:
            start = tirx.const(0.0, "float32")
            if self.geometry.bias is not None:
                start = emitter.load(self.geometry.bias, channel)
            for number in range(side * vectors):
                emitter.store(acc, start, [number, lane])
            self._sums(acc, copy, channel, begin, side, x, vectors, lane)
        with emitter.lanes(lanes) as lane:
            for number in range(side * vectors):
                y, v = divmod(number, vectors)
                index = (n, channel, strip + begin + y, x + v * self.lanes + lane)
                emitter.finish(self.anchor, Scalar(acc[number, lane]), index)

    def _sums(
        self, acc: Registers, copy: Any, channel: Any, begin: Any, side: int, x: Any, vectors: int, lane: Any
    ) -> None:
        """Adds all products of a tile to its sums; in the vector loop."""
        emitter, g = self.emitter, self.geometry
        top = begin * g.stride[0]

        def add(row: Any, users: list[tuple[int, Any]]) -> None:
            """The products of a row of the copy, with row r of the window for row y of the tile."""
            for s in range(g.taps[1]):
                part, shift = g.tap(s)
                weights = [(y, T.Bind(emitter.load(g.weight, channel, 0, r, s))) for y, r in users]
                for v in range(vectors):
                    value = T.Bind(copy[part, row, self.front + shift + x + v * self.lanes + lane])
                    for y, weight in weights:
                        number = y * vectors + v
                        emitter.store(acc, acc[number, lane] + value * weight, [number, lane])

        if prod(g.taps) > _WRITTEN:
            with emitter.serial(g.taps[0]) as r:
                for y in range(side):
                    add(top + y * g.stride[0] + r * g.dilation[0], [(y, r)])
            return
        readers: dict[int, list[tuple[int, Any]]] = {}
        for y in range(side):
            for r in range(g.taps[0]):
                readers.setdefault(y * g.stride[0] + r * g.dilation[0], []).append((y, r))
        for row in sorted(readers):
            add(top + row, readers[row])
