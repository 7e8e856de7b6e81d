"""Convolutions and linear layers of float16 whose products are added up in float16, a run at a time (`specc.ir.sums`).

    sums = 0;  sums += x * w  for the terms of a run;  accumulators += float32(sums)         for all runs

The loops and tiles are those of layers of float32 (`convolution`, `linear`), with vectors of float16: NEON's of eight
numbers, in which each has two output blocks, or one where blocks are of eight channels, as on a core with SVE; those of
AVX512_FP16 of 32, which are two output blocks. For NEON, one load brings four neighbouring inputs of a pixel or row,
and `fmla` takes each from a quarter of its register; for x86, `vpbroadcastw` brings each input into all lanes. The
accumulators of float32 wait in memory while a run is added up, since its sums fill the registers.

One core of the Granite Rapids generation, whose registers allow 478 GFLOP/s of float16 and 240 of float32: 350 to 410,
where layers of float32 reach 200 to 230 and those that widen their factors 150 to 180 (docs/precision.md). In C, runs
of 64 terms are 1.1 times as fast as those of 32, all terms in one run 1.2 times; pairs of channels, broadcast as one
number of 32 bits to two interleaved sums, are as fast as this, and sums that `vcvtph2ps` reads from memory, not by
shuffles, 1.03 times. Requests (`fetch`) take 0.81 to 0.98 of the time where weights come from beyond the second-level
cache.

By llvm-mca's count (docs/arm-tiles.md), 11 to 12 multiply-adds in a cycle on the Neoverse N1, of 16; layers of float32
make 7.5 to 8 of 8, those that widen their factors first 5. On the Neoverse V1, 24 to 25 of 32, where float32 makes
10.6. Every second one of the instructions that end a run converts, in one of the N1's two units: with runs of 16 terms
that costs as much time as the products do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Registers, Template
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import convolution as convolutions
from specc.backends.tvm.kernels import convolution_plan, tiles
from specc.backends.tvm.kernels import linear as linears
from specc.backends.tvm.kernels.convolution_reads import Place
from specc.backends.tvm.kernels.epilogue import is_heavy, operand_packings
from specc.backends.tvm.kernels.fetch import Ahead, soon
from specc.backends.tvm.kernels.parts import ELEMENTS, FENCE, fence
from specc.backends.tvm.packing import Packing
from specc.ir import sums
from specc.ir.types import block_of
from specc.targets import Target

FASTER = 1.5
"""So many times as fast as direct sums of float32 they are, by llvm-mca's count; measured on the Granite Rapids
generation, 1.6 to 1.9 times, but with this, minimal filtering is taken there where it is faster (3x3, 256 channels,
14x14: 0.88)."""

_NEON = 8
"""Numbers in a vector of NEON's."""

_STEP = sums.LANES
"""Inputs of a pixel or row that are written out."""


def by_element(target: Target) -> bool:
    """Whether a multiply-add takes a factor from an element of a vector, as NEON's does; else inputs are broadcast."""
    return target.architecture == "aarch64"


def width(target: Target) -> int:
    """Numbers in a vector of sums."""
    return _NEON if by_element(target) else 2 * target.lanes


def adds_up(group: Group, anchor: int, target: Target) -> bool:
    """Whether the products of a layer, the group's anchor, may be added up in float16."""
    step = group.step(anchor)
    x, weight = (group.type(operand) for operand in step.operands[:2])
    few = prod(weight.concrete[2:]) <= sums.MOST_TAPS and step.attrs.get("groups", 1) == 1
    return target.half_sums and few and x.dtype == weight.dtype == "float16"


def convolution(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a dense convolution of float16; None for another group or target."""
    anchor, lanes = group.anchor, target.lanes
    if anchor is None or group.step(anchor).op != "conv2d" or not adds_up(group, anchor, target):
        return None
    data, weight, *bias = group.step(anchor).operands
    packings = operand_packings(group, lanes, anchor)
    if packings is None or block_of(group.type(data).layout) != lanes:
        return None
    if not all(group.inputs[v].frozen for v in (weight, *bias)):
        return None
    packings[weight] = Packing("convolution", width(target), lanes)
    packings |= {value: Packing("padded", lanes) for value in bias}
    geometry = convolution_plan.geometry_of(group, anchor, target, choices)
    heavy = is_heavy(group, group.last)
    schedule = convolution_plan.schedule_of(
        geometry,
        lanes,
        wide(target, geometry.kernel[1]),
        choices,
        size=2,
        fetch=not by_element(target),
        heavy=heavy,
        chunked=False,
    )
    schedule = replace(schedule, tile=in_blocks(schedule.tile, target))

    def write(emitter: Emitter) -> None:
        with _fenced(target):
            _Convolution(emitter, anchor, geometry, schedule, lanes, target).emit()

    return Template(write, packings, once=True)


def linear(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a linear layer of float16; None for another group or target."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "linear" or not adds_up(group, anchor, target):
        return None
    shape, inputs = group.type(anchor).concrete, group.type(group.step(anchor).operands[0]).concrete[-1]
    blocks = -(-shape[-1] // target.lanes)
    packings = linears.operands_of(group, anchor, Packing("matrix", width(target)), target)
    if packings is None or inputs % _STEP or blocks % (width(target) // target.lanes):
        return None
    schedule = linears.schedule_of(
        linears.shape_of(group, anchor), wide(target), choices, size=2, depth=_STEP, fetch=not by_element(target)
    )
    schedule = replace(schedule, tile=in_blocks(schedule.tile, target))
    tile = schedule.tile
    once = prod(shape[:-1]) % tile.pixels == 0 and blocks % tile.blocks == 0

    def write(emitter: Emitter) -> None:
        with _fenced(target):
            _Linear(emitter, anchor, schedule, target).emit()

    return Template(write, packings, once=once)


@contextmanager
def _fenced(target: Target) -> Iterator[None]:
    """What is written in here can call `fence` where inputs are broadcast."""
    if by_element(target):
        yield
    else:
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", FENCE):
            yield


def wide(target: Target, taps: int = 1) -> Target:
    """The target as the cost model of tiles is to see it: a block is a vector of float16; `taps` is how many columns
    the window has.

    Four vectors of NEON start in a cycle on a core with SVE. Two registers are kept free there with one tap, else the
    inputs of the next step spill: 7 x 3 makes 17.1 multiply-adds in a cycle, 5 x 4 24.5. With more taps, 4 x 4 makes
    25.3, and 20.1 is what the best tile makes that leaves two registers free.
    """
    free = 2 if taps == 1 and target.lanes == width(target) else 0
    started = target.fma_per_cycle * (target.lanes / ELEMENTS if by_element(target) else 1)
    registers = target.vector_registers - free
    return replace(target, vector_bits=32 * width(target), vector_registers=registers, fma_per_cycle=started)


def in_blocks(tile: tiles.Tile, target: Target) -> tiles.Tile:
    """A tile of vectors of float16 in blocks of the target."""
    return tiles.Tile(tile.pixels, width(target) // target.lanes * tile.blocks)


class _Run:
    """The sums of a run: `pixels` times as many vectors of float16 as hold `blocks`, which begin with a vector's first
    one."""

    def __init__(self, pixels: int, blocks: int, target: Target) -> None:
        self.lanes, self.blocks, self.pixels, self.width = target.lanes, blocks, pixels, width(target)
        self.by_element = by_element(target)
        self.held = self.width // self.lanes
        """Blocks in a vector."""
        self.vectors = -(-blocks // self.held)
        self.kind = f"float16x{self.width}"
        self.sums = Registers(pixels * self.vectors, self.width, "float16")
        for vector in self.sums.vectors:
            T.buffer_store(vector, tirx.Broadcast(tirx.const(0.0, "float16"), self.width), [self._all])

    @property
    def _all(self) -> Any:
        return tirx.Ramp(0, 1, self.width)

    def inputs(self, buffer: Any, place: Sequence[Any]) -> list[Any]:
        """The neighbouring inputs from `place` on that are written out, each in all lanes of a vector: NEON loads them
        together, x86 each into all lanes."""
        *lead, last = place
        if self.by_element:
            bits = tirx.BufferLoad(buffer, [*lead, tirx.Ramp(last, 1, _STEP)])
            vector = tirx.reinterpret(f"float16x{_STEP}", bits)
            return [tirx.Shuffle([vector] * (_NEON // _STEP), [q] * _NEON) for q in range(_STEP)]
        numbers = [tirx.reinterpret("float16", tirx.BufferLoad(buffer, [*lead, last + q])) for q in range(_STEP)]
        return [tirx.Broadcast(number, self.width) for number in numbers]

    def weights(self, buffer: Any, first: Any, *place: Any) -> list[Any]:
        """The weights of a step, of each vector of blocks from number `first` on."""
        return [
            tirx.reinterpret(self.kind, tirx.BufferLoad(buffer, [first + p, *place, self._all]))
            for p in range(self.vectors)
        ]

    def add(self, pixel: int, value: Any, weights: Sequence[Any]) -> None:
        """Adds the products of an input with the weights to the sums of a pixel, each rounded once."""
        for p, weight in enumerate(weights):
            vector = self.sums.vectors[pixel * self.vectors + p]
            total = tirx.BufferLoad(vector, [self._all])
            T.buffer_store(vector, tirx.call_llvm_pure_intrin(self.kind, "llvm.fma", value, weight, total), [self._all])

    def part(self) -> None:
        """Keeps LLVM from reading in front of here what is needed behind it, where inputs are broadcast.

        It would keep what a tap shares with the next one in registers, and store sums for that: 3x3, 64 channels, 56x56
        takes 0.78 of the time without.
        """
        if not self.by_element:
            fence()

    def end(self, acc: Registers) -> None:
        """Adds the sums to the accumulators."""
        part = [tirx.Ramp(0, 1, self.lanes)]
        for i in range(self.pixels):
            for j in range(self.blocks):
                half = tirx.BufferLoad(self.sums.vectors[i * self.vectors + j // self.held], [self._all])
                if self.held > 1:
                    half = tirx.Shuffle([half], [j % self.held * self.lanes + k for k in range(self.lanes)])
                wide = tirx.Cast(f"float32x{self.lanes}", half)
                vector = acc.vectors[i * self.blocks + j]
                T.buffer_store(vector, tirx.BufferLoad(vector, part) + wide, part)


class _Convolution(convolutions.Convolution):
    """Writes the loops of one convolution of float16."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.target: Target = arguments[-1]
        self.widens = False
        self.unit = width(self.target) // self.lanes

    def _tile(self, place: Place) -> None:
        emitter, g, blocks, pixels = self.emitter, self.geometry, place.blocks, place.span.pixels
        tile = self.epilogue.tile(pixels, blocks)
        acc = tile.accumulators
        with emitter.lanes(self.lanes) as lane:
            for j, block in enumerate(blocks):
                for i in range(pixels):
                    emitter.store(acc, self._start(block, lane), [i * len(blocks) + j, lane])
        size = sums.channels(prod(g.kernel)) // _STEP
        whole, rest = divmod(-(-g.in_channels // _STEP), size)
        if whole:
            with emitter.serial(whole) as outer:
                self._run(acc, place, outer * size, size)
        if rest:
            self._run(acc, place, whole * size, rest)
        at = (place.n, *self._pixel(place.y, place.x))
        with emitter.lanes(self.lanes) as lane:
            tile.finish(*at, lane)
        tile.flush(*at)

    def _run(self, acc: Registers, place: Place, first: Any, count: int) -> None:
        """The products of so many fours of channels from number `first` on."""
        emitter, g = self.emitter, self.geometry
        run = _Run(place.span.pixels, len(place.blocks), self.target)
        vector = emitter.divmod(place.blocks[0], self.unit)[0]
        ahead = self._ahead(run.vectors)
        with emitter.serial(count, first) as four, emitter.serial(place.taps) as r:
            channel, part = emitter.divmod(four, self.inner // _STEP)
            tap = place.low + r
            for s, pixels in enumerate(place.span.taps):
                run.part()
                if ahead:
                    step = (four * g.kernel[0] + tap) * g.kernel[1] + s
                    ahead(place.number, step, self.weight, lambda j, line: (vector + run.vectors + j, 0, 0, 0, line, 0))
                places = {i: i * g.stride[1] + s * g.dilation[1] for i in range(*pixels)}
                read = {i: self._read(place, channel, tap, offset) for i, offset in places.items()}
                values = {i: run.inputs(self.data, [*at, part * _STEP]) for i, at in read.items()}
                for q in range(_STEP if values else 0):
                    self._ask(place, (vector, run.vectors), (channel, tap, s, part * _STEP + q), r, q)
                    weights = run.weights(self.weight, vector, channel, tap, s, part * _STEP + q)
                    for i, vectors in values.items():
                        run.add(i, vectors[q], weights)
        run.end(acc)

    def _ahead(self, vectors: int) -> Ahead | None:
        """Requests for the weights of the next output blocks, as many vectors of them."""
        if not self.schedule.ahead:
            return None
        steps = -(-self.geometry.in_channels // _STEP) * prod(self.geometry.kernel)
        return Ahead(self.emitter, vectors, steps * _STEP, self.rows * self.across, steps)

    def _ask(self, place: Place, vectors: tuple[Any, int], at: tuple[Any, Any, int, Any], r: Any, q: int) -> None:
        """Asks for what is read soon, at input channel number `at[3]` of a block, which is number `q` of a step.

        Inputs of windows are not: 256 channels, 14x14, 3x3 would take 1.22 times as long. Neither are results: LLVM
        would store sums, and 64 to 256 channels, 56x56, 1x1 take 2.1 times as long.
        """
        channel, tap, s, lane = at
        for p in range(vectors[1] if self.schedule.soon else 0):
            soon(self.weight, vectors[0] + p, channel, tap, s, lane + self.schedule.soon, 0)
        if self.schedule.inputs and self.geometry.kernel == (1, 1) and q % 2 == 0:  # two pixels share a line
            self._ask_for_inputs(place, channel, r, s * self.inner + lane, s * self.inner)


class _Linear(linears.Linear):
    """Writes the loops of one linear layer of float16."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.target: Target = arguments[-1]

    def _strip(self, group: Any, strips: int, strip: Any) -> None:
        """As for float32, but that the last group begins early enough to be a whole one: blocks of a vector stay
        together."""
        emitter, width, size = self.emitter, self.tile.blocks, self.tile.pixels
        start = group * width
        if self.blocks % width:
            start = emitter.simplify(tirx.min(start, self.blocks - width))
        with emitter.strip(self.tiles, strips, strip) as number:
            first = number * size
            blocks = [start + j for j in range(width)]
            self._tile(blocks, first if self.rows % size == 0 else tirx.min(first, self.rows - size), size)

    def _accumulate(self, acc: Registers, blocks: list[Any], first: Any, rows: int) -> None:
        emitter, size = self.emitter, sums.channels(1)
        with emitter.lanes(self.lanes) as lane:
            self._start(acc, blocks, rows, lane)
        whole, rest = divmod(self.inputs, size)
        if whole:
            with emitter.serial(whole) as outer:
                self._run(acc, blocks, (first, rows), outer * size, size)
        if rest:
            self._run(acc, blocks, (first, rows), whole * size, rest)

    def _run(self, acc: Registers, blocks: list[Any], lines: tuple[Any, int], start: Any, terms: int) -> None:
        """The products of so many inputs from number `start` on, for a number of rows from the first one on."""
        emitter, (first, rows) = self.emitter, lines
        run = _Run(rows, len(blocks), self.target)
        vector = emitter.divmod(blocks[0], run.held)[0]
        ahead = Ahead(emitter, run.vectors, self.inputs, self.in_strip, self.inputs // _STEP)
        with emitter.serial(terms // _STEP) as step:
            k = start + step * _STEP
            if self.schedule.ahead:
                number = emitter.divmod(k, _STEP)[0]
                ahead(self.number, number, self.weight, lambda j, line: (vector + run.vectors + j, line, 0))
            values = [run.inputs(self.data, self._row(first + i, k)) for i in range(rows)]
            for q in range(_STEP):
                run.part()
                for p in range(run.vectors if self.schedule.soon else 0):
                    soon(self.weight, vector + p, k + q + self.schedule.soon, 0)
                weights = run.weights(self.weight, vector, k + q)
                for i in range(rows):
                    run.add(i, values[i][q], weights)
        run.end(acc)
