"""Dense two-dimensional convolution, any kernel, stride, dilation and padding; 1x1 is its most frequent case.

    result[n, o, y, x] = epilogue(bias[o] + sum over i, r, s of
                                  input[n, i, y * sy + r * dy - top, x * sx + s * dx - left] * weight[o, i, r, s])

The input is blocked (the channels of a block are broadcast one by one) or, with few channels as in a network's first
layer, plain row-major. Weights are packed [o block, i block, r, s, i, o]: one step of the reduction reads one vector
of them for each output block. The register tile (`tiles`) is some pixels of a row times some output blocks; taps
outside of the input are left out while the kernel is written (columns) or bound the loop over taps (rows), so there is
neither a padded copy nor a branch around the arithmetic. A 1x1 convolution with stride 1 sees height and width as one
axis. Of the last block of input channels, those that only fill it are not multiplied: on one core of the Granite Rapids
generation, 24 to 72 channels at 56x56 take 0.77 of the time, 40 to 120 at 28x28 0.84, MobileNetV3-Large 0.97.

Two orders of the loops (`strips_first`). Threads share out strips of rows and run through all output blocks for each
strip. Or they share out the output blocks, so that each weight is read by one core. The weights and inputs that come
next are asked for (`fetch`).

With many input channels, the weights of a few output blocks and of the next ones, with the image, are more than the
second-level cache holds, and each tile reads them from farther away. Then the reduction is cut into chunks
(`convolution_plan.take_chunks`): the sums of all tiles are kept in memory, and the products of one chunk after the
other are added to them, while the weights of the next one are asked for; neither gains anything without the other. One
core of a Cascade Lake: 512 channels, 7 x 7, 3 x 3: 0.80 of the time, with stride 2 from 14 x 14 0.83; 1024 to 2048
channels, 1 x 1 with stride 2: 0.88; 3072 to 768 channels, 7 x 7, 1 x 1: 0.86. Where all of this fits, the sums' way to
memory and back costs more than it brings (512 to 2048 channels, 7 x 7, 1 x 1, four chunks: 1.09); so it does where the
first-level cache does not hold the sums. A core of the Granite Rapids generation, of 2 MB and 48 KB, gains from chunks
before its cache is full (`Target.l2_share`): 512 channels, 7 x 7, 3 x 3, which take 0.89 of it, 0.74 to 0.79 of the
time, 3072 to 768 channels (0.85) 0.89 to 0.96, 1024 to 2048 with stride 2 (0.57) 0.94 to 0.97; 1024 to 256 at 14 x 14
(0.51) 1.02, 512 to 2048 at 7 x 7 (0.14) 1.00 to 1.06. But while its cache is not full, sums of more than half of the
first-level one leave chunks of their weights no room: 728 channels at 19 x 19 (46 KB of sums) take 0.87 of the time
without chunks, 1280 at 14 x 14 (25 KB) 0.89 to 0.93, 1280 at 16 x 16 and 1024 at 17 x 17 0.95 to 1.01.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.halves import of_pair
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.convolution_plan import UNROLL, Geometry, Schedule, geometry_of, kept_of, schedule_of
from specc.backends.tvm.kernels.convolution_reads import Place, Reads
from specc.backends.tvm.kernels.epilogue import Epilogue, is_heavy, operand_packings
from specc.backends.tvm.kernels.fetch import Ahead, soon
from specc.backends.tvm.kernels.pairs import DEPTH, Factors, Pairs, imported, take
from specc.backends.tvm.kernels.rows import Rows, row_taps
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import HALVES
from specc.ir.types import block_of
from specc.targets import Target

Write = Callable[[Place], None]
"""Writes what is to be done for a tile."""

Lanewise = Callable[[Any], None]
"""Writes what is to be done for a lane of a vector."""


def anchored(group: Group, target: Target) -> tuple[int, dict[int, Packing], int] | None:
    """The convolution in float32, of frozen weights, that is a group's anchor: its number, how its bias and the
    operands of its epilogue are stored, and the channels in a block of its input; None for another group."""
    anchor, lanes = group.anchor, target.lanes
    if anchor is None or group.step(anchor).op != "conv2d" or group.type(anchor).dtype != "float32":
        return None
    data, *weights = group.step(anchor).operands
    packings, block = operand_packings(group, lanes, anchor), block_of(group.type(data).layout)
    if packings is None or any(v >= len(group.inputs) for v in (data, *weights)):
        return None
    if not all(group.inputs[v].frozen for v in weights) or block not in (0, lanes):
        return None
    return anchor, packings | {value: Packing("padded", lanes) for value in weights[1:]}, block or 1


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a dense convolution; None for another group."""
    found = anchored(group, target)
    if found is None or group.step(found[0]).attrs["groups"] != 1:
        return None
    anchor, packings, inner = found
    data, weight, *_ = group.step(anchor).operands
    x, lanes = group.type(data), target.lanes
    paired = x.dtype == group.type(weight).dtype == "bfloat16" and inner % 2 == 0
    packings[weight] = Packing("pairs" if paired else "convolution", lanes, inner)
    geometry = geometry_of(group, anchor, target, choices)
    heavy = is_heavy(group, group.last)
    pairs = take(choices, target) if paired else None
    size, depth = (2, DEPTH) if pairs else (4, 1)
    kept = kept_of(geometry, inner, target)
    tiled, unroll = (pairs.tiled(target, reserve=4), pairs.written or UNROLL) if pairs else (target, UNROLL)
    schedule = schedule_of(
        *(geometry, inner // depth, tiled, choices, size), heavy=heavy, kept=kept, depth=depth, unroll=unroll
    )

    def write(emitter: Emitter) -> None:
        with imported(pairs):
            Convolution(emitter, anchor, geometry, schedule, inner, target, pairs).emit()

    return Template(write, packings, once=True)


class Convolution(Reads):
    """Writes the loops of one convolution; its `epilogue` is the group's if no other is given.

    `source` is what it reads; if none is given, the input of the group that is its operand. A group begins with a
    multiple of `unit` output blocks.
    """

    unit = 1

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        geometry: Geometry,
        schedule: Schedule,
        inner: int,
        target: Target,
        pairs: Pairs | None = None,
        epilogue: Epilogue | None = None,
        source: Rows | None = None,
    ) -> None:
        self.emitter, self.geometry, self.schedule, self.inner = emitter, geometry, schedule, inner
        self.tile, self.lanes = schedule.tile, target.lanes
        step = emitter.group.step(anchor)
        self.operands = step.operands
        data, *weights = step.operands
        self.weight, *bias = (emitter.buffers[v] for v in weights)
        self.source, self.data = source, source.buffer if source else emitter.buffers[data]
        self.bias = bias[0] if bias else None
        self.epilogue = epilogue or Epilogue(emitter, anchor, self.lanes)
        g = geometry
        self.spans = tiles.spans(
            g.columns, self.tile.pixels, g.kernel[1], g.stride[1], g.dilation[1], g.padding[1], g.in_width
        )
        self.rows = -(-g.rows // schedule.strips)
        self.across = sum(span.count for span in self.spans)
        self.pairs, self.depth = pairs, DEPTH if pairs else 1
        self.steps = -(-g.in_channels // inner) * (inner // self.depth) * g.kernel[0] * g.kernel[1]
        self.paired = not pairs and emitter.packings[step.operands[1]].kind == "pairs"
        self.unroll = max(schedule.unroll, 2) if self.paired else schedule.unroll
        self.lines = self.steps // 2 if self.paired else self.steps
        self.channels = -(-g.in_channels // inner) // schedule.chunks
        self.wide: Any = None
        self.sums: Any = None
        self.widens = not (pairs or source) and inner > 1 and emitter.group.type(data).dtype in HALVES

    def emit(self) -> None:
        """All loops. The output blocks are dealt with in groups of the tile's."""
        g, emitter, strips = self.geometry, self.emitter, self.schedule.strips
        blocks, groups = -(-g.out_channels // self.lanes), self.schedule.groups
        if self.schedule.strips_first:
            with emitter.parallel(g.batch * strips) as work:
                n, strip = emitter.divmod(work, strips)
                self._make_room()
                self.strip(n, strip)
        else:
            with emitter.parallel(g.batch * groups * strips) as work:
                outer, strip = emitter.divmod(work, strips)
                n, group = emitter.divmod(outer, groups)
                self._make_room()
                self._group(n, group, blocks, strip)

    def strip(self, n: Any, strip: Any) -> None:
        """All output blocks, group by group, over the rows of one strip."""
        with self.emitter.serial(self.schedule.groups) as group:
            self._group(n, group, -(-self.geometry.out_channels // self.lanes), strip)

    def _group(self, n: Any, group: Any, blocks: int, strip: Any) -> None:
        """The output blocks of one group, over the rows of one strip."""
        groups, units = self.schedule.groups, -(-blocks // self.unit)
        starts = [min(blocks, number * units // groups * self.unit) for number in range(groups + 1)]
        least, *more = sorted({end - start for start, end in pairwise(starts)})
        if isinstance(group, int) or not more:
            first = group * least
            return self._rows(n, [first + j for j in range(least)], strip)
        first = T.Bind(tirx.floordiv(group * units, groups) * self.unit)
        end = tirx.min(blocks, tirx.floordiv((group + 1) * units, groups) * self.unit)
        self._sized(n, first, T.Bind(end - first), [*more, least], strip)

    def _sized(self, n: Any, first: Any, size: Any, sizes: Sequence[int], strip: Any) -> None:
        """The output blocks from `first` on, of which there are `size`, one of `sizes`."""
        blocks = [first + j for j in range(sizes[0])]
        if len(sizes) == 1:
            return self._rows(n, blocks, strip)
        with T.If(size == sizes[0]):
            with T.Then():
                self._rows(n, blocks, strip)
            with T.Else():
                self._sized(n, first, size, sizes[1:], strip)

    def _rows(self, n: Any, blocks: Sequence[Any], strip: Any) -> None:
        """The tiles of a strip."""
        emitter, g, chunks = self.emitter, self.geometry, self.schedule.chunks

        def tiles_of(write: Write) -> None:
            with emitter.strip(g.rows, self.schedule.strips, strip) as y:
                self.row(n, blocks, y, emitter.divmod(y, self.rows)[1] * self.across, write)

        if chunks == 1:
            return tiles_of(self._tile)
        with emitter.serial(self.rows * g.columns) as pixel, emitter.lanes(self.lanes) as lane:
            for j, block in enumerate(blocks):
                emitter.store(self.sums, self._start(block, lane), [pixel, j, lane])
        with emitter.serial(chunks) as chunk:
            tiles_of(lambda place: self._part(replace(place, chunk=chunk)))
        tiles_of(self._end)

    def row(self, n: Any, blocks: Sequence[Any], y: Any, number: Any = 0, write: Write | None = None) -> None:
        """The tiles of one row for some output blocks; the first one is tile number `number` of its strip."""
        g = self.geometry
        low, taps = row_taps(y, g.rows, g.kernel[0], g.stride[0], g.dilation[0], g.padding[0], g.in_height)
        for span in self.spans:
            with self.emitter.serial(span.count) as i:
                x = span.first + i * span.pixels
                (write or self._tile)(Place(n, blocks, y, x, span, number + i, low, taps))
            number += span.count

    def _tile(self, place: Place) -> None:
        """One register tile, see `Place`."""
        emitter, blocks, pixels = self.emitter, place.blocks, place.span.pixels
        tile = self.epilogue.tile(pixels, blocks)
        at = (place.n, *self._pixel(place.y, place.x))

        def start(lane: Any) -> None:
            for j, block in enumerate(blocks):
                for i in range(pixels):
                    emitter.store(tile.accumulators, self._start(block, lane), [i * len(blocks) + j, lane])

        self._add(tile.accumulators, place, start, lambda lane: tile.finish(*at, lane))
        tile.flush(*at)

    def _start(self, block: Any, lane: Any) -> Any:
        """What a sum begins with."""
        return tirx.const(0.0, "float32") if self.bias is None else self.bias[block * self.lanes + lane]

    def _part(self, place: Place) -> None:
        """Adds the products of a chunk to the sums of a tile."""
        count, pixels = len(place.blocks), place.span.pixels
        acc = Registers(pixels * count, self.lanes, "float32")

        def keep(lane: Any) -> None:
            for i in range(pixels):
                for j in range(count):
                    self.emitter.store(self.sums, acc[i * count + j, lane], [self._kept(place) + i, j, lane])

        self._add(acc, place, lambda lane: self._recall(acc, place, lane), keep)

    def _end(self, place: Place) -> None:
        """Finishes a tile whose sums are complete."""
        tile = self.epilogue.tile(place.span.pixels, place.blocks)
        at = (place.n, *self._pixel(place.y, place.x))
        with self.emitter.lanes(self.lanes) as lane:
            self._recall(tile.accumulators, place, lane)
            tile.finish(*at, lane)
        tile.flush(*at)

    def _recall(self, acc: Registers, place: Place, lane: Any) -> None:
        """Reads the sums of a tile."""
        count = len(place.blocks)
        for i in range(place.span.pixels):
            for j in range(count):
                self.emitter.store(acc, self.sums[self._kept(place) + i, j, lane], [i * count + j, lane])

    def _kept(self, place: Place) -> Any:
        """Where the sums of a tile lie."""
        return self.emitter.divmod(place.y, self.rows)[1] * self.geometry.columns + place.x

    def _add(self, acc: Registers, place: Place, start: Lanewise, end: Lanewise) -> None:
        """Adds all products of a tile and a chunk; in front of it and behind it, what `start` and `end` write."""
        if self.widens:
            self._widen(place)
        with self.emitter.lanes(self.lanes) as lane:
            start(lane)
            if not self.pairs:
                self._sums(acc, place, lane)
                end(lane)
        if self.pairs:  # they take whole vectors
            count = place.span.pixels * len(place.blocks)
            sums = self.pairs.registers(acc, count)
            self.pairs.spread(acc, sums, count)
            self._sums(sums, place, None)
            self.pairs.gathered(sums, acc, count)
            with self.emitter.lanes(self.lanes) as lane:
                end(lane)

    def _sums(self, acc: Any, place: Place, lane: Any) -> None:
        """Adds all products of a tile and a chunk, lane by lane or, without `lane`, as whole vectors."""
        emitter = self.emitter
        with emitter.serial(self.channels) as channel, emitter.serial(place.taps) as r:
            for s, pixels in enumerate(place.span.taps):
                if pixels[0] < pixels[1]:
                    self._steps(acc, place, channel, r, s, lane)

    def _make_room(self) -> None:
        """The memory for `_widen`, and for the sums of a strip."""
        g = self.geometry
        if self.widens:
            most = max(len(self._offsets(span)) for span in self.spans)
            self.wide = T.alloc_buffer((self.channels, g.kernel[0], max(1, most), self.inner), "float32")
        if self.schedule.chunks > 1:
            self.sums = T.alloc_buffer((self.rows * g.columns, self.tile.blocks, self.lanes), "float32")

    def _steps(self, acc: Any, place: Place, channel: Any, r: Any, s: int, lane: Any) -> None:
        """One tap of all channels of one block of the chunk, tap number `r` of those that lie inside the input."""
        emitter, g, blocks, count = self.emitter, self.geometry, self._filters(place), len(place.blocks)
        tap, number = place.low + r, channel
        channel = place.chunk * self.channels + number
        unroll, iterations = self.unroll, self.inner // self.depth // self.unroll
        offsets = self._offsets(place.span)
        chunks, lines = self.schedule.chunks, self.lines // self.schedule.chunks
        ahead = Ahead(emitter, self.tile.blocks, lines, self.rows * self.across, self.steps // chunks // unroll)
        last = place.chunk == chunks - 1
        next_block, next_line = blocks[0] + tirx.Select(last, count, 0), tirx.Select(last, 0, (place.chunk + 1) * lines)
        with emitter.serial(self._iterations(channel, iterations)) as outer:
            if self.schedule.ahead:
                step = ((number * g.kernel[0] + tap) * g.kernel[1] + s) * iterations + outer
                ahead(place.number, step, self.weight, lambda j, line: (next_block + j, 0, 0, 0, next_line + line, 0))
            found = self._factors(place, channel, tap, s, outer * unroll * self.depth)
            for q in range(unroll):
                i_lane = (outer * unroll + q) * self.depth
                line = outer * (unroll // 2) + q // 2 if self.paired else outer * unroll + q
                if self.schedule.soon and not (self.paired and q % 2):
                    for block in blocks:
                        soon(self.weight, block, channel, tap, s, line + self.schedule.soon, 0)
                if self.schedule.inputs:  # in 16 bits, two pixels share a line: pairs ask for each second one
                    self._ask_for_inputs(place, number, r, s * self.inner + i_lane, s * self.inner)
                if self.schedule.results and s == 0:
                    self._ask_for_results(place, channel, i_lane)
                if self.pairs:
                    self.pairs.part()
                    vectors = [self.pairs.weights(self.weight, block, channel, tap, s, line) for block in blocks]
                for i in range(*place.span.taps[s]):
                    offset = i * g.stride[1] + s * g.dilation[1]
                    if self.pairs:
                        for j, vector in enumerate(vectors):
                            self.pairs.add(acc, i * count + j, found[i][q], vector)
                        continue
                    if self.widens:
                        value = self.wide[number, r, offsets.index(offset), i_lane]
                    else:
                        value = self._load(self._read(place, channel, tap, offset), i_lane)
                    for j, block in enumerate(blocks):
                        if self.paired:
                            weight = of_pair(self.weight[block, channel, tap, s, line, lane], q % 2 == 1)
                        else:
                            weight = emitter.load(self.operands[1], block, channel, tap, s, i_lane, lane)
                        position = [i * count + j, lane]
                        emitter.store(acc, acc[tuple(position)] + value * weight, position)

    def _filters(self, place: Place) -> Sequence[Any]:
        """Which blocks of the weights are those of a tile's output blocks."""
        return place.blocks

    def _iterations(self, channel: Any, whole: int) -> Any:
        """How often the innermost loop runs for a block of channels, `whole` times for a full one: channels that are
        there to fill the last block are left out."""
        left = -(-self.geometry.in_channels // (self.unroll * self.depth))
        blocks = -(-self.geometry.in_channels // self.inner)
        return whole if left == whole * blocks else T.Bind(tirx.min(whole, left - channel * whole))

    def _factors(self, place: Place, channel: Any, tap: Any, s: int, first: Any) -> dict[int, list[Factors]]:
        """Of each pixel of a tap, the pairs for the steps that are written out, from `first` of the block on."""
        if not self.pairs:
            return {}
        g = self.geometry
        places = {i: i * g.stride[1] + s * g.dilation[1] for i in range(*place.span.taps[s])}
        read = {i: [*self._read(place, channel, tap, offset), first] for i, offset in places.items()}
        return {i: self.pairs.factors(self.data, at, self.unroll) for i, at in read.items()}
