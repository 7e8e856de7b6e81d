"""Dense convolutions whose last output block is at most half full: products of two input channels in each vector.

    sums[2 * c + p] = sum over i, r, s of input[n, 2 * i + p, ...] * weight[c, 2 * i + p, r, s]       p = 0, 1
    result[n, c, y, x] = epilogue(bias[c] + sums[2 * c] + sums[2 * c + 1])

24 channels are one and a half vectors of 16. By whole blocks (`convolution`) they take two multiply-adds for an input;
here, a vector of sums has 8 output channels, each twice: for the even input channels and for the odd ones. Two
neighbouring inputs are broadcast as one number of 64 bits, the weights lie in the same order (`Packing`, interleaved),
and 24 channels take three multiply-adds for two inputs. At the end of a tile, two permutations and an addition make a
block of each two vectors of sums.

The loops are those of `convolution`, strips of rows first; the tile is some pixels times the vectors of a few blocks.
Whether this takes fewer cycles than whole blocks, the model of both decides (`tiles`).

One core of the Granite Rapids generation, the time over that by whole blocks: 1x1, 64, 72, 96 and 144 to 24 channels at
56x56 0.76 to 0.78, 16 to 24 0.84; 120 and 240 to 40 at 28x28 0.83 to 0.85, 112 to 56 at 56x56 0.94, 240 to 72 at 14x14
0.89, 240 to 104 0.92; 3x3 with stride 2, 24 to 24 at 56x56 0.72, 40 to 40 at 28x28 0.91; 32 to 8 at 112x112 0.82. With
vectors of 256 bits: 96 to 20 at 28x28 0.80, 32 to 4 at 56x56 0.61. What the model refuses: 24 to 72 at 56x56 0.96, 40
to 120 at 28x28 0.99, 80 to 184 at 14x14 1.04. All kernels of MobileNetV3-Large and of EfficientNet-B0 0.97.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.convolution import Convolution, anchored
from specc.backends.tvm.kernels.convolution_plan import Geometry, Schedule, geometry_of, take_unroll
from specc.backends.tvm.kernels.convolution_reads import Place
from specc.backends.tvm.kernels.epilogue import is_heavy
from specc.backends.tvm.kernels.fetch import take_inputs, take_results
from specc.backends.tvm.kernels.rows import share, take_strips
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import DTYPES
from specc.targets import Target

DEPTH = 2
"""Inputs that a vector of sums has for each of its output channels."""

_JOIN = 1.5
"""Cycles in which two vectors of sums become a block."""

_GAIN = 0.95
"""Of the cycles of whole blocks, at most so many are worth it."""

_ROWS = 2
"""So many rows, or strips of them, at least: threads share them out, and no output blocks."""

_EIGHTH = 8
"""All weights fill such a part of the second-level cache at most: each strip of rows reads all of them."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a dense convolution of float32 whose last output block is half empty, where that is faster; None
    for another group."""
    found = anchored(group, target)
    if found is None or group.step(found[0]).attrs["groups"] != 1:
        return None
    anchor, packings, inner = found
    plan = plan_of(group, anchor, target, choices) if inner > 1 else None
    if plan is None:
        return None
    packings[group.step(anchor).operands[1]] = packing(target)

    def write(emitter: Emitter) -> None:
        HalfBlocks(emitter, anchor, *plan, inner, target).emit()

    return Template(write, packings, once=True)


def plan_of(group: Group, anchor: int, target: Target, choices: Choices) -> tuple[Geometry, Schedule] | None:
    """How a dense convolution, which reads blocks of channels, is computed so; None where whole blocks are faster."""
    channels = group.type(anchor).concrete[1]
    if not serves(group, anchor, target):
        return None
    geometry = geometry_of(group, anchor, target, Choices(), lambda columns: cost(columns, channels, target))
    if not choices.take("halves", (True, False), gains(geometry, target)):
        return None
    geometry = geometry_of(group, anchor, target, choices, lambda columns: cost(columns, channels, target))
    inputs = DTYPES["float32"] * geometry.in_channels * geometry.in_height * geometry.in_width
    default = share(geometry.rows, geometry.batch, max(8, -(-2 * inputs // target.l2_bytes)))
    strips = take_strips(choices, geometry.rows, default)
    return geometry, schedule_of(geometry, strips, target, choices, is_heavy(group, group.last))


def serves(group: Group, anchor: int, target: Target) -> bool:
    """Whether a dense convolution, which reads blocks of channels, can be computed so: of its last output block half or
    more is empty, it has few weights, and they and what it reads are float32."""
    data, weight = (group.type(operand) for operand in group.step(anchor).operands[:2])
    few = _EIGHTH * DTYPES["float32"] * prod(weight.concrete) <= target.l2_bytes
    odd = vectors_of(weight.concrete[0], target) % DEPTH == 1
    real = data.dtype == weight.dtype == "float32"
    return real and odd and few and target.vectors and target.architecture == "x86_64"


def packing(target: Target) -> Packing:
    """How the weights are stored."""
    return Packing("interleaved", target.lanes // DEPTH, target.lanes)


def vectors_of(channels: int, target: Target) -> int:
    """Vectors of sums for so many output channels."""
    return -(-channels * DEPTH // target.lanes)


def _groups(channels: int, count: int, target: Target) -> list[int]:
    """The vectors of sums of each of `count` groups of blocks, which a tile computes together."""
    total = vectors_of(channels, target)
    blocks = -(-total // DEPTH)
    ends = [min(total, DEPTH * (blocks * (number + 1) // count)) for number in range(count)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


@cache
def _tiles(columns: int, channels: int, target: Target, taps: int) -> tuple[tuple[float, int, int], ...]:
    """The cycles for two input channels over a row, by groups of blocks and pixels of a tile: the least first."""
    found = []
    for count in range(1, -(-channels // target.lanes) + 1):
        groups = _groups(channels, count, target)
        fitting = [p for p in range(1, columns + 1) if tiles.fits(p, max(groups), target, taps)]
        for pixels in dict.fromkeys(tiles.balanced(columns, pixels)[0] for pixels in fitting):
            sizes = tiles.balanced(columns, pixels)
            steps = (tiles.step_cost(size, vectors, target) for size in sizes for vectors in groups)
            found.append((round(sum(steps) + tiles.WAY * sum(groups) * len(sizes), 6), count, pixels))
    return tuple(sorted(found, key=lambda each: (each[0], each[1], -each[2])))


def cost(columns: int, channels: int, target: Target) -> float:
    """Cycles for two input channels over a row, with the best tile."""
    return _tiles(columns, channels, target, 1)[0][0]


def gains(g: Geometry, target: Target) -> bool:
    """Whether two inputs at a time take fewer cycles than whole blocks do, and there are rows to share out."""
    if g.batch * g.rows < _ROWS:
        return False
    blocks, taps = -(-g.out_channels // target.lanes), g.kernel[0] * g.kernel[1]
    steps = g.in_channels * taps / DEPTH
    whole = tiles.row_cost(g.columns, blocks, tiles.choose(g.columns, blocks, target, taps=g.kernel[1]), target)
    halved = cost(g.columns, g.out_channels, target) * steps + _JOIN * blocks * g.columns
    return halved <= _GAIN * DEPTH * steps * whole


def schedule_of(g: Geometry, strips: int, target: Target, choices: Choices, heavy: bool) -> Schedule:
    """How such a convolution is computed, in so many strips of rows."""
    ranked = _tiles(g.columns, g.out_channels, target, g.kernel[1])
    groups = choices.near("groups", {count for _, count, _ in ranked}, ranked[0][1])
    fitting = [pixels for _, count, pixels in ranked if count == groups]
    pixels = choices.near("pixels", fitting, fitting[0])
    unroll = take_unroll(choices, target.lanes // DEPTH)
    summed = g.kernel[0] * g.kernel[1] * -(-g.in_channels // target.lanes)
    inputs, results = take_inputs(choices, target), take_results(choices, summed, heavy, target)
    tile = tiles.Tile(pixels, -(-max(_groups(g.out_channels, groups, target)) // DEPTH))
    return Schedule(tile, groups, True, strips, 1, unroll, 0, False, inputs, results)


class HalfBlocks(Convolution):
    """Writes the loops of one convolution, two input channels at a time."""

    def __init__(
        self, emitter: Emitter, anchor: int, geometry: Geometry, schedule: Schedule, inner: int, target: Target
    ) -> None:
        super().__init__(emitter, anchor, geometry, schedule, inner, target)
        self.depth = DEPTH
        self.vectors = vectors_of(self.geometry.out_channels, target)
        self.parts = _groups(self.geometry.out_channels, schedule.groups, target)

    def strip(self, n: Any, strip: Any) -> None:
        """All output blocks, group by group, over the rows of one strip. The groups are written out: they differ in
        their vectors."""
        first = 0
        for vectors in self.parts:
            self._rows(n, [first + j for j in range(-(-vectors // DEPTH))], strip)
            first += vectors // DEPTH

    @property
    def _all(self) -> Any:
        return tirx.Ramp(0, 1, self.lanes)

    def _held(self, place: Place) -> int:
        """The vectors of sums of a pixel."""
        return min(DEPTH * len(place.blocks), self.vectors - DEPTH * int(place.blocks[0]))

    def _filters(self, place: Place) -> Sequence[Any]:
        """Which vectors of the weights are those of a tile."""
        return [DEPTH * place.blocks[0] + v for v in range(self._held(place))]

    def _tile(self, place: Place) -> None:
        emitter, pixels, count, held = self.emitter, place.span.pixels, len(place.blocks), self._held(place)
        tile = self.epilogue.tile(pixels, place.blocks)
        at = (place.n, *self._pixel(place.y, place.x))
        sums = Registers(pixels * held, self.lanes, "float32")
        for vector in sums.vectors:
            T.buffer_store(vector, self._zeros, [self._all])
        self._sums(sums, place, None)
        for i in range(pixels):
            for j in range(count):
                T.buffer_store(
                    tile.accumulators.vectors[i * count + j], self._joined(sums, i * held, j, held), [self._all]
                )
        with emitter.lanes(self.lanes) as lane:
            if self.bias is not None:
                for number in range(pixels * count):
                    start = self._start(place.blocks[number % count], lane)
                    emitter.store(tile.accumulators, tile.accumulators[number, lane] + start, [number, lane])
            tile.finish(*at, lane)
        tile.flush(*at)

    @property
    def _zeros(self) -> Any:
        return tirx.Broadcast(tirx.const(0.0, "float32"), self.lanes)

    def _joined(self, sums: Registers, first: int, j: int, held: int) -> Any:
        """Block number `j` of a pixel whose sums begin at vector `first`: sums of even inputs and those of odd ones."""
        halves = [
            tirx.BufferLoad(sums.vectors[first + number], [self._all]) if number < held else self._zeros
            for number in (DEPTH * j, DEPTH * j + 1)
        ]
        even, odd = (tirx.Shuffle(halves, [DEPTH * c + p for c in range(self.lanes)]) for p in range(DEPTH))
        return even + odd

    def _steps(self, acc: Any, place: Place, channel: Any, r: Any, s: int, lane: Any) -> None:
        """One tap of all channels of one block, tap number `r` of those that lie inside the input."""
        g, tap, steps = self.geometry, place.low + r, self.inner // DEPTH
        held, filters = self._held(place), self._filters(place)
        lines = -(-place.span.pixels * g.stride[1] // steps)
        with self.emitter.serial(self._iterations(channel, steps // self.unroll)) as outer:
            for q in range(self.unroll):
                step = outer * self.unroll + q
                for line in range(lines):
                    least = (s * lines + line) * steps
                    if self.schedule.inputs:
                        self._ask_for_inputs(place, channel, r, least + step, least)
                    if self.schedule.results and s == 0 and line * steps < place.span.pixels:
                        self._ask_for_results(place, channel, line * steps + step)
                weights = [tirx.BufferLoad(self.weight, [v, channel, tap, s, step, self._all]) for v in filters]
                for i in range(*place.span.taps[s]):
                    pair = self._pair(
                        self._read(place, channel, tap, i * g.stride[1] + s * g.dilation[1]), step * DEPTH
                    )
                    for v, weight in enumerate(weights):
                        vector = acc.vectors[i * held + v]
                        total = tirx.BufferLoad(vector, [self._all]) + pair * weight
                        T.buffer_store(vector, total, [self._all])

    def _pair(self, at: list[Any], lane: Any) -> Any:
        """A vector of two neighbouring channels, again and again: from `lane` on of a block of what is read."""
        return T.Bind(repeated(self.data, [*at, lane], self.lanes))


def repeated(buffer: Any, at: Sequence[Any], lanes: int) -> Any:
    """A vector of the two neighbours that lie from `at` on, again and again."""
    *lead, first = at
    pair = tirx.BufferLoad(buffer, [*lead, tirx.Ramp(first, 1, DEPTH)])
    return tirx.reinterpret(f"float32x{lanes}", tirx.Broadcast(tirx.reinterpret("float64", pair), lanes // DEPTH))
