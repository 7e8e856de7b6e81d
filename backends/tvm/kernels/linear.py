"""Linear layers: result[..., o] = epilogue(bias[o] + sum over i of input[..., i] * weight[o, i]).

All dimensions but the last are one axis of rows. Weights are packed [o block, i, o]: one step of the reduction reads
one vector of them for each output block and broadcasts one input a row. With a single row (a classifier at batch 1)
the kernel is bound by reading the weights; eight blocks side by side then hide the latency of the multiply-adds.

All tiles have equally many rows: the last one overlaps the one before it, and equal values are stored twice. Threads
share out strips of rows or groups of output blocks, whichever order reads less from beyond the second-level cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd, prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Index, Registers, Template, on_stack
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.halves import of_pair
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.epilogue import is_heavy
from specc.backends.tvm.kernels.fetch import Ahead, soon, take_ahead, take_soon
from specc.backends.tvm.kernels.pairs import DEPTH, Pairs, imported, take
from specc.backends.tvm.kernels.rows import share, take_order, take_strips
from specc.backends.tvm.packing import Packing
from specc.ir.dtypes import HALVES
from specc.targets import Target

_ROW = 0.08
"""Cycles that a row of a tile costs in a step on x86, besides its number: its address."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group whose anchor is a linear layer with frozen weights; None for another group."""
    anchor = group.anchor
    if anchor is None or group.step(anchor).op != "linear" or group.type(anchor).dtype != "float32":
        return None
    kinds = [group.type(operand) for operand in group.step(anchor).operands[:2]]
    paired = all(kind.dtype == "bfloat16" for kind in kinds) and kinds[0].concrete[-1] % 2 == 0
    packed = Packing("pairs", target.lanes, 2) if paired else Packing("matrix", target.lanes)
    packings = operands_of(group, anchor, packed, target)
    if packings is None:
        return None
    pairs = take(choices, target) if paired else None
    size, depth = (2, DEPTH) if pairs else (4, 1)
    tiled, written = (pairs.tiled(target, reserve=4), pairs.written) if pairs else (target, None)
    schedule = schedule_of(shape_of(group, anchor), tiled, choices, size, depth, written)
    shape, tile = group.type(anchor).concrete, schedule.tile
    once = prod(shape[:-1]) % tile.pixels == 0 and -(-shape[-1] // target.lanes) % tile.blocks == 0

    def write(emitter: Emitter) -> None:
        with imported(pairs):
            Linear(emitter, anchor, schedule, target, pairs).emit()

    return Template(write, packings, once=once)


def operands_of(group: Group, anchor: int, packed: Packing, target: Target) -> dict[int, Packing] | None:
    """How the frozen operands of a linear layer and of its epilogue are stored, the weights as `packed`; None where the
    template does not take them."""
    step = group.step(anchor)
    shape = step.type.concrete
    if group.result.shape != step.type.shape or any(v >= len(group.inputs) for v in step.operands):
        return None
    _, weight, *bias = step.operands
    if not all(group.inputs[v].frozen for v in (weight, *bias)) or 0 in shape:
        return None
    packings = {weight: packed}
    packings |= {value: Packing("padded", target.lanes) for value in bias}
    for number, operand in enumerate(group.inputs):
        if number in step.operands:
            continue
        own = operand.type.concrete
        if operand.frozen and own and prod(own) == own[-1] == shape[-1]:
            packings[number] = Packing("padded", target.lanes)
        elif prod(own) != 1 and own != shape and prod(own) != own[-1]:
            return None
    return packings


@dataclass(frozen=True)
class Schedule:
    """How a linear layer is computed. The outer loop runs over strips of rows or over groups of output blocks; `unroll`
    steps of the reduction are written out; `soon` and `ahead` say which weights are asked for (`fetch`)."""

    tile: tiles.Tile
    strips_first: bool
    strips: int
    unroll: int
    soon: int
    ahead: bool


@dataclass(frozen=True)
class Shape:
    """The extents of a linear layer: those of one of its `groups`, which lie beside each other in a row."""

    rows: int
    inputs: int
    outputs: int
    groups: int = 1


def shape_of(group: Group, anchor: int) -> Shape:
    """The extents of a linear layer of a group."""
    *lead, inputs = group.type(group.step(anchor).operands[0]).concrete
    return Shape(prod(lead), inputs, group.type(anchor).concrete[-1])


def schedule_of(
    shape: Shape,
    target: Target,
    choices: Choices,
    size: int = 4,
    depth: int = 1,
    written: int | None = None,
    fetch: bool = True,
) -> Schedule:
    """How a linear layer is computed, or each of its groups: its elements have `size` bytes, a step of the reduction
    takes `depth` of them, and `written` steps are written out, or four where the tile is small, if their number allows
    it. With `fetch`, its tiles can ask for what they read next."""
    rows, inputs, blocks = shape.rows, shape.inputs, -(-shape.outputs // target.lanes)
    tile = tile_of(rows, blocks, size * inputs * shape.groups, target, choices)
    groups, count = -(-blocks // tile.blocks), -(-rows // tile.pixels)
    wanted = 0
    if count > 1:
        wanted = take_order(choices, size * blocks * target.lanes * inputs, size * rows * inputs, groups, target)
    strips = take_strips(choices, count, min(wanted, count) if wanted else share(count, groups * shape.groups))
    unroll = take_unroll(choices, inputs // depth, tile, written, target)
    soon = take_soon(choices, target) if fetch else 0
    alone = wanted or strips == 1  # else several threads use the same weights
    block = size * target.lanes * inputs
    ahead = (
        fetch and bool(alone) and take_ahead(choices, blocks * block, tile.blocks * block, -(-count // strips), target)
    )
    return Schedule(tile, bool(wanted), strips, unroll, soon, ahead)


def take_unroll(choices: Choices, steps: int, tile: tiles.Tile, written: int | None, target: Target) -> int:
    """How many of the reduction's `steps` are written out: see `schedule_of`."""
    fitting = [u for u in (2, 1, 4) if steps % u == 0]
    if written is None:
        written = 2 if target.broadcast_registers else 4
    more = steps % 4 == 0 and (written == 4 or tile.pixels * tile.blocks <= 8)
    return choices.take("unroll", fitting, 4 if more else fitting[0])


class Linear:
    """Writes the loops of one linear layer."""

    def __init__(
        self,
        emitter: Emitter,
        anchor: int,
        schedule: Schedule,
        target: Target,
        pairs: Pairs | None = None,
        shape: Shape | None = None,
    ) -> None:
        self.emitter, self.anchor, self.lanes, self.pairs = emitter, anchor, target.lanes, pairs
        self.schedule, self.tile = schedule, schedule.tile
        step = emitter.group.step(anchor)
        *lead, _ = emitter.group.type(step.operands[0]).concrete
        shape = shape or shape_of(emitter.group, anchor)
        self.rows, self.inputs, self.outputs = shape.rows, shape.inputs, shape.outputs
        self.rank = len(lead) + 1
        self.axis = max((i for i, extent in enumerate(lead) if extent > 1), default=0)
        self.blocks = -(-self.outputs // self.lanes)
        self.tiles = -(-self.rows // self.tile.pixels)
        self.in_strip = -(-self.tiles // schedule.strips)
        self.number: Any = 0
        """Which tile of its strip is being written."""
        self.operands = step.operands
        self.data, self.weight, *bias = (emitter.buffers[v] for v in step.operands)
        self.bias = bias[0] if bias else None
        self.value, self.dtype = emitter.group.last, step.type.dtype
        self.heavy = is_heavy(emitter.group, self.value)

    def emit(self) -> None:
        """The tiles, in the better one of two orders."""
        emitter, strips = self.emitter, self.schedule.strips
        groups = -(-self.blocks // self.tile.blocks)
        if self.schedule.strips_first:
            with emitter.parallel(strips) as strip, emitter.serial(groups) as group:
                self._strip(group, strips, strip)
        else:
            with emitter.parallel(groups * strips) as work:
                group, strip = emitter.divmod(work, strips)
                self._strip(group, strips, strip)

    def _strip(self, group: Any, strips: int, strip: Any) -> None:
        """The tiles of one strip for a group of output blocks; a block beyond the last one repeats it."""
        emitter, width, size = self.emitter, self.tile.blocks, self.tile.pixels
        blocks = [group * width + j for j in range(width)]
        if self.blocks % width:
            blocks = [emitter.simplify(tirx.min(block, self.blocks - 1)) for block in blocks]
        with emitter.strip(self.tiles, strips, strip) as number:
            first = number * size
            self.number = emitter.divmod(number, self.in_strip)[1]
            self._tile(blocks, first if self.rows % size == 0 else tirx.min(first, self.rows - size), size)

    def _tile(self, blocks: list[Any], first: Any, rows: int) -> None:
        """One register tile.

        An epilogue of many instructions is a loop over copies of the accumulators. It writes whole vectors of float32
        straight to the result: 0.98 of the time for GELU behind 384 to 1536 features (one core, Granite Rapids).
        """
        emitter, width = self.emitter, len(blocks)
        acc = Registers(rows * width, self.lanes, self.dtype)
        made = emitter.group.result.dtype
        made = "float32" if made in HALVES else made
        done = acc if made == self.dtype else Registers(rows * width, self.lanes, made)
        looped = self.heavy and rows * width > 2
        direct = looped and self.outputs % self.lanes == 0 and emitter.group.result.dtype == "float32"
        held = [on_stack((rows, self.lanes), self.dtype) for _ in blocks] if looped else []
        kept = held if made == self.dtype else [on_stack((rows, self.lanes), made) for _ in held]
        self._accumulate(acc, blocks, first, rows)
        with emitter.lanes(self.lanes) as lane:
            if looped:
                for i in range(rows):
                    for j in range(width):
                        emitter.store(held[j], acc[i * width + j, lane], [i, lane])
                with emitter.serial(rows) as row:
                    for j, block in enumerate(blocks):
                        column = block * self.lanes + lane
                        value = self._finished(Scalar(held[j][row, lane]), first + row, column)
                        if direct:
                            emitter.result().put(value, self._place(first + row, column))
                        else:
                            emitter.store(kept[j], value, [row, lane])
            else:
                for i in range(rows):
                    for j, block in enumerate(blocks):
                        value = self._finished(Scalar(acc[i * width + j, lane]), first + i, block * self.lanes + lane)
                        emitter.store(done, value, [i * width + j, lane])
        if direct:
            return
        if looped:
            with emitter.serial(rows) as row:
                for j, block in enumerate(blocks):
                    self._store(kept[j], row, first + row, block)
        else:
            for i in range(rows):
                for j, block in enumerate(blocks):
                    self._store(done, i * width + j, first + i, block)

    def _accumulate(self, acc: Registers, blocks: list[Any], first: Any, rows: int) -> None:
        """The sums of a tile, from the bias on."""
        if self.pairs:
            self._accumulate_pairs(self.pairs, acc, blocks, first, rows)
            return
        emitter, width = self.emitter, len(blocks)
        paired = emitter.packings[self.operands[1]].kind == "pairs"
        unroll = max(self.schedule.unroll, 2) if paired else self.schedule.unroll
        lines = self.inputs // 2 if paired else self.inputs
        first_lane = (0, 0) if paired else (0,)
        ahead = Ahead(emitter, width, lines, self.in_strip, self.inputs // unroll)
        wide = self._widened(first, rows)
        with emitter.lanes(self.lanes) as lane:
            self._start(acc, blocks, rows, lane)
            with emitter.serial(self.inputs // unroll) as outer:
                if self.schedule.ahead:
                    ahead(self.number, outer, self.weight, lambda j, line: (blocks[0] + width + j, line, *first_lane))
                for q in range(unroll):
                    k = outer * unroll + q
                    line = outer * (unroll // 2) + q // 2 if paired else k
                    if self.schedule.soon and not (paired and q % 2):
                        for block in blocks:
                            soon(self.weight, block, line + self.schedule.soon, *first_lane)
                    for i in range(rows):
                        if wide is None:
                            value = tirx.Cast(self.dtype, emitter.load(self.operands[0], *self._read(first + i, k)))
                        else:
                            value = wide[i, k]
                        for j, block in enumerate(blocks):
                            position = [i * width + j, lane]
                            if paired:
                                weight = of_pair(self.weight[block, line, 0, lane], q % 2 == 1)
                            else:
                                weight = tirx.Cast(self.dtype, emitter.load(self.operands[1], block, k, lane))
                            emitter.store(acc, acc[tuple(position)] + value * weight, position)

    def _accumulate_pairs(self, pairs: Pairs, acc: Registers, blocks: list[Any], first: Any, rows: int) -> None:
        emitter, width, unroll, lines = self.emitter, len(blocks), self.schedule.unroll, self.inputs // DEPTH
        ahead = Ahead(emitter, width, lines, self.in_strip, lines // unroll)
        with emitter.lanes(self.lanes) as lane:
            self._start(acc, blocks, rows, lane)
        sums = pairs.registers(acc, rows * width)
        pairs.spread(acc, sums, rows * width)
        with emitter.serial(lines // unroll) as outer:
            if self.schedule.ahead:
                ahead(self.number, outer, self.weight, lambda j, line: (blocks[0] + width + j, line, 0, 0))
            places = [self._row(first + i, outer * unroll * DEPTH) for i in range(rows)]
            found = [pairs.factors(self.data, place, unroll) for place in places]
            for q in range(unroll):
                line = outer * unroll + q
                if self.schedule.soon:
                    for block in blocks:
                        soon(self.weight, block, line + self.schedule.soon, 0, 0)
                pairs.part()
                vectors = [pairs.weights(self.weight, block, line, 0) for block in blocks]
                for i in range(rows):
                    for j, vector in enumerate(vectors):
                        pairs.add(sums, i * width + j, found[i][q], vector)
        pairs.gathered(sums, acc, rows * width)

    def _widened(self, first: Any, rows: int) -> Any:
        """What a tile reads of 16 bits, as float32: the products read each number for every output block."""
        emitter, whole = self.emitter, self.inputs // self.lanes
        if emitter.group.type(self.operands[0]).dtype not in HALVES:
            return None
        wide = T.alloc_buffer((rows, self.inputs), "float32")
        for start, count, lanes in ((0, whole, self.lanes), (whole * self.lanes, 1, self.inputs % self.lanes)):
            if count and lanes:
                with emitter.serial(rows) as i, emitter.serial(count) as vector, emitter.lanes(lanes) as lane:
                    k = start + vector * self.lanes + lane
                    value = emitter.load(self.operands[0], *self._read(first + i, k))
                    emitter.store(wide, value, [i, k])
        return wide

    def _start(self, acc: Registers, blocks: list[Any], rows: int, lane: Any) -> None:
        for j, block in enumerate(blocks):
            for i in range(rows):
                zero = tirx.const(0, self.dtype)
                start = zero if self.bias is None else self.bias[block * self.lanes + lane]
                self.emitter.store(acc, start, [i * len(blocks) + j, lane])

    def _row(self, row: Any, column: Any) -> tuple[Any, ...]:
        """The index of an element: the last leading dimension of more than one row runs through all of them."""
        return (*(row if i == self.axis else 0 for i in range(self.rank - 1)), column)

    def _read(self, row: Any, column: Any) -> Sequence[Any]:
        """Where an input lies."""
        return self._row(row, column)

    def _place(self, row: Any, column: Any) -> Sequence[Any]:
        """Where a result lies."""
        return self._row(row, column)

    def _finished(self, accumulator: Scalar, row: Any, column: Any) -> Scalar:
        emitter = self.emitter

        def leaf(number: int, index: Index) -> Scalar:
            if number == self.anchor:
                return accumulator
            if emitter.packings[number].kind == "padded":
                return Scalar(emitter.load(number, index[-1]), reads=True)
            if index and not isinstance(index[-1], int) and self.outputs % self.lanes:
                index = (*index[:-1], tirx.min(index[-1], self.outputs - 1))
            return Scalar(emitter.load(number, *index), reads=True)

        return emitter.evaluate(self.value, self._row(row, column), leaf)

    def _store(self, values: Any, position: Any, row: Any, block: Any) -> None:
        """Writes one vector to the result, or of the last block the lanes that there are."""
        emitter, rest = self.emitter, self.outputs % self.lanes

        def copy(lanes: int) -> None:
            with emitter.lanes(lanes) as lane:
                column = block * self.lanes + lane
                emitter.result().put(values[position, lane], self._place(row, column))

        if not rest:
            copy(self.lanes)
        elif isinstance(block, int):
            copy(rest if block == self.blocks - 1 else self.lanes)
        else:
            with T.If(block < self.blocks - 1):
                with T.Then():
                    copy(self.lanes)
                with T.Else():
                    copy(rest)


def tile_of(rows: int, blocks: int, row_bytes: int, target: Target, choices: Choices) -> tiles.Tile:
    """The tile that takes the fewest cycles for all rows, unless the choice `tile` has been made otherwise."""
    ranked = tile_costs(rows, blocks, row_bytes, target)
    least, cost = next(iter(ranked.items()))
    found = {str(tile): tile for tile, each in ranked.items() if each <= tiles.WORSE * cost}
    return found[choices.take("tile", found, str(least))]


@cache
def tile_costs(rows: int, blocks: int, row_bytes: int, target: Target) -> dict[tiles.Tile, float]:
    """The cycles that a step of the reduction takes for all rows with each tile, the last tile as long as the others;
    the least first.

    The rows of a tile are read side by side. Where they lie a multiple of a large power of two apart, they share a few
    sets of the first-level cache; a tile has no more rows than fill three quarters of these (28 rows of 1536 inputs: 29
    GFLOP/s, 8 rows: 110; where it has 12 lines in a set, with 3072 inputs, 7 x 3 takes 0.88 of the time of 5 x 4). A
    row costs a little more than its number does, as it lies elsewhere: with 96 inputs, 9 x 3 takes 0.94 to 0.97 of the
    time of 14 x 2, with more of them 0.98 to 1.
    """

    row = _ROW if target.architecture == "x86_64" else 0.0

    def cost(tile: tiles.Tile) -> float:
        groups = -(-blocks // tile.blocks)
        return (
            -(-rows // tile.pixels)
            * groups
            * (tiles.step_cost(tile.pixels, tile.blocks, target) + tiles.WAY * tile.blocks + row * tile.pixels)
        )

    sets, ways = tiles.sets_of(target)
    apart = sets // gcd(max(1, row_bytes // tiles.LINE), sets)
    most = min(rows, target.vector_registers, apart * ways * 3 // 4)
    candidates = [
        tiles.Tile(pixels, wide)
        for wide in range(1, min(blocks, 8) + 1)
        for pixels in range(1, most + 1)
        if tiles.fits(pixels, wide, target)
    ]
    return {tile: cost(tile) for tile in sorted(candidates, key=lambda tile: (round(cost(tile), 6), -tile.pixels))}
