"""Attention in one launch, without the matrix of scores in memory.

    scores[.., i, j]  = sum over d of q[.., i, d] * k[.., d, j]
    result[.., i, w]  = sum over j of softmax over j(pointwise steps on scores)[i, j] * v[.., j, w], moved

A block has a head and some queries, which lie in shared memory. It goes over the keys in tiles: k to shared memory, the
scores of the tile in registers, pointwise steps (scales, biases, masks), then v to where k was. Of each query it keeps
the greatest score so far, and the sum of powers and the result by that one; whenever a tile has a greater one, both
are scaled (Dao et al., FlashAttention, arXiv:2205.14135; Milakov and Gimelshein, arXiv:1805.02867).

Threads stand in rows of 8 or 16, parts of a warp: those of a row have the same queries and different keys, then
different columns of v, in both products a tile in registers that is read from shared memory in runs of up to four.
Scores to powers takes an exchange among the threads of a row.

q, k and v are read where they lie, as on a processor: slices, reshapes and permutes are index arithmetic. Numbers of 16
bits are float32 from there on, and so are the weights for the second product, even where a graph rounds them: this is
for factors of float32, and for the few of 16 bits that `core_attention` does not take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda import occupancy
from specc.backends.tvm.cuda.threads import barrier, exchanged, grid, local, only_if, shared, unravel, unrolled
from specc.backends.tvm.emitter import Emitter, Index, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels.attention_parts import Parts, destination, located, parts_of
from specc.targets import Target

_UNROLLED = 8
"""Terms of a sum that are written out."""


@dataclass(frozen=True)
class Tile:
    """The queries and the keys of a step, and the threads: `across` in a row, each with `down` queries."""

    queries: int
    keys: int
    across: int
    down: int

    @property
    def name(self) -> str:
        return f"{self.queries}x{self.keys}_{self.across}_{self.down}"

    @property
    def threads(self) -> int:
        return self.queries // self.down * self.across

    @property
    def own_keys(self) -> int:
        return self.keys // self.across

    def own_columns(self, width: int) -> int:
        return -(-width // self.across)

    def shared(self, depth: int, width: int) -> int:
        """Bytes of shared memory: the queries, the keys or what they stand for, and the powers."""
        rows = max(depth * _padded(self.keys), self.keys * self.own_columns(width) * self.across)
        return 4 * (depth * _padded(self.queries) + rows + self.keys * _padded(self.queries))

    def registers(self, width: int) -> int:
        """A guess at the registers of a thread."""
        held = self.down * (self.own_columns(width) + self.own_keys + 2)
        return held + max(self.own_keys, self.own_columns(width)) + self.down + 32


TILES = tuple(
    tile
    for tile in (
        Tile(q, k, a, d) for q in (16, 32, 64, 128) for k in (16, 32, 64) for a in (8, 16) for d in (1, 2, 4, 8)
    )
    if 32 <= tile.threads <= 256 and tile.own_keys >= 2
)


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is attention; None for another group, and where no tile fits in shared memory."""
    parts = parts_of(group)
    if parts is None or not all(prod(step.type.concrete) for step in group.steps):
        return None
    tile = choose(sizes_of(group, parts), target, choices)
    if tile is None:
        return None
    return Template(lambda emitter: _Attention(emitter, parts, tile).emit())


def sizes_of(group: Group, parts: Parts) -> tuple[int, int, int, int, int]:
    """Heads, queries, keys, the terms of a score and the columns of v."""
    queries, keys = group.type(parts.scores).concrete[-2:]
    depth = group.type(group.step(parts.scores).operands[0]).concrete[-1]
    *lead, _, width = group.type(parts.mixed).concrete
    return prod(lead), queries, keys, depth, width


def choose(sizes: tuple[int, int, int, int, int], target: Target, choices: Choices) -> Tile | None:
    """The tile that a model of instructions and waves of blocks gives least time; None if there is none.

    `sizes` are as `sizes_of` has them.
    """
    heads, queries, keys, depth, width = sizes

    def held(tile: Tile) -> int:
        return occupancy.resident(tile.threads, tile.registers(width), tile.shared(depth, width))

    def cost(tile: Tile) -> float:
        blocks = heads * -(-queries // tile.queries)
        columns = tile.own_columns(width)

        def product(terms: int, other: int) -> float:
            # Four values come from shared memory in the time of four multiplications.
            return terms * (tile.down * other + 4 * (-(-tile.down // 4) + -(-other // 4)))

        loads = (tile.keys * (depth + width)) / tile.threads * 12
        powers = tile.down * tile.own_keys * 30 + tile.down * 60
        each = product(depth, tile.own_keys) + product(tile.keys, columns) + loads + powers
        resident = min(held(tile), -(-blocks // target.processors))
        warps = resident * tile.threads / 32
        # Four warps compute at a time; one that is alone waits for most of its instructions.
        cycles = each * max(warps / 4, 4.0)
        waves = occupancy.waves(blocks, resident, target)
        return waves * (-(-keys // tile.keys) * (cycles + 200) + 1000)

    found = {tile.name: tile for tile in sorted((tile for tile in TILES if held(tile)), key=cost)}
    return found[choices.take("tile", found, next(iter(found)))] if found else None


def _padded(extent: int) -> int:
    """The length of a row that is written across: four more spread a column over the banks."""
    return extent + 4


def _repeat(emitter: Emitter, extent: int, body: Callable[[Any], None]) -> None:
    """Calls `body` for every number below `extent`, some of them written out."""
    whole, rest = divmod(extent, _UNROLLED)
    if whole:
        with emitter.serial(whole) as outer, unrolled(emitter, _UNROLLED) as inner:
            body(emitter.simplify(outer * _UNROLLED + inner))
    if rest:
        with unrolled(emitter, rest) as inner:
            body(emitter.simplify(whole * _UNROLLED + inner))


class _Attention:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, parts: Parts, tile: Tile) -> None:
        self.emitter, self.group, self.parts, self.tile = emitter, emitter.group, parts, tile
        self.query, self.key = self.group.step(parts.scores).operands
        self.weights, self.value = self.group.step(parts.mixed).operands
        self.scored = self.group.step(parts.softmax).operands[0]
        self.queries, self.keys = self.group.type(parts.scores).concrete[-2:]
        self.depth = self.group.type(self.query).concrete[-1]
        *self.lead, _, self.width = self.group.type(parts.mixed).concrete
        self.columns = tile.own_columns(self.width)

    def emit(self) -> None:
        emitter, tile, group = self.emitter, self.tile, self.group
        blocks = -(-self.queries // tile.queries)
        with grid(emitter, prod(self.lead) * blocks, tile.threads) as (block, self.thread):
            head, number = emitter.divmod(block, blocks)
            self.head = unravel(emitter, head, tuple(self.lead))
            self.softmax_lead = located(emitter, self.weights, (*self.head, 0, 0), self.parts.softmax)[:-2]
            self.scores_lead = located(emitter, self.scored, (*self.softmax_lead, 0, 0), self.parts.scores)[:-2]
            self.first = emitter.simplify(number * tile.queries)
            self.ty, self.tx = emitter.divmod(self.thread, tile.across)
            self.q = shared((self.depth, _padded(tile.queries)), "float32")
            rows = max(self.depth * _padded(tile.keys), tile.keys * self.columns * tile.across)
            self.kv = shared((rows,), "float32")
            self.powers = shared((tile.keys, _padded(tile.queries)), "float32")
            self.sums = local(tile.down * self.columns, "float32")
            self.scores = local(tile.down * tile.own_keys, "float32")
            self.top, self.total = local(tile.down, "float32"), local(tile.down, "float32")
            with unrolled(emitter, tile.down * self.columns) as i:
                emitter.store(self.sums, tirx.const(0.0, "float32"), [i])
            with unrolled(emitter, tile.down) as i:
                emitter.store(self.top, tirx.min_value("float32"), [i])
                emitter.store(self.total, tirx.const(0.0, "float32"), [i])
            self._load(self.depth, tile.queries, self._query_at, lambda d, i: (self.q, [d, i]), self.query)
            with emitter.serial(-(-self.keys // tile.keys)) as step:
                start = emitter.simplify(step * tile.keys)
                barrier()  # nobody reads the rows of v of the step before any more
                self._load_keys(start)
                barrier()
                self._score()
                self._to_powers(start)
                barrier()  # nobody reads the keys any more
                self._load_values(start)
                barrier()
                self._mix()
            self._store(group)

    # ---- shared memory ----------------------------------------------------------------------------------------------

    def _leaf(self, number: int, index: Index) -> Scalar:
        return self.emitter.input(number)(*index)

    def _query_at(self, d: Any, i: Any) -> Scalar:
        row = self._row(i)
        return self.emitter.evaluate(self.query, (*self.scores_lead, row, d), self._leaf)

    def _row(self, i: Any) -> Any:
        """The query number i of the block; the last one behind it."""
        row = self.emitter.simplify(self.first + i)
        return row if self.queries % self.tile.queries == 0 else tirx.min(row, self.queries - 1)

    def _key(self, start: Any, j: Any) -> Any:
        key = self.emitter.simplify(start + j)
        return key if self.keys % self.tile.keys == 0 else tirx.min(key, self.keys - 1)

    def _load(
        self, terms: int, extent: int, read: Callable[[Any, Any], Scalar], place: Callable[[Any, Any], Any], value: int
    ) -> None:
        """[terms, extent] elements to shared memory; threads stand along what lies side by side in memory."""
        emitter, threads, count = self.emitter, self.tile.threads, terms * extent
        with emitter.serial(-(-count // threads)) as step:
            number = emitter.simplify(step * threads + self.thread)
            with only_if(count % threads == 0 or number < count):
                if (value == self.query) == self._rows_run(value):
                    i, d = emitter.divmod(number, terms)
                else:
                    d, i = emitter.divmod(number, extent)
                buffer, at = place(d, i)
                emitter.store(buffer, read(d, i), at)

    def _rows_run(self, value: int) -> bool:
        """Whether the last index of a value runs in memory."""
        axis = self.group.type(value).rank - 1
        while value >= len(self.group.inputs):
            step = self.group.step(value)
            last = axis == step.type.rank - 1
            value = step.operands[0]
            rank = self.group.type(value).rank
            if step.op == "permute":
                axis = step.attrs["order"][axis]
            elif not last:
                return False
            else:
                axis = rank - 1
        return axis == self.group.type(value).rank - 1

    def _load_keys(self, start: Any) -> None:
        pitch = _padded(self.tile.keys)

        def read(d: Any, j: Any) -> Scalar:
            index = (*self.scores_lead, d, self._key(start, j))
            return self.emitter.evaluate(self.key, index, self._leaf)

        self._load(self.depth, self.tile.keys, read, lambda d, j: (self.kv, [d * pitch + j]), self.key)

    def _load_values(self, start: Any) -> None:
        """Zeros behind the last key and the last column."""
        emitter, width = self.emitter, self.columns * self.tile.across
        whole_keys, whole_columns = self.keys % self.tile.keys == 0, width == self.width
        math, threads = emitter.math, self.tile.threads
        count = self.tile.keys * width
        with emitter.serial(-(-count // threads)) as step:
            number = emitter.simplify(step * threads + self.thread)
            with only_if(count % threads == 0 or number < count):
                j, w = emitter.divmod(number, width)
                inside = math.all(whole_keys or start + j < self.keys, whole_columns or w < self.width)
                index = (*self.head, self._key(start, j), w if whole_columns else tirx.min(w, self.width - 1))
                found = emitter.evaluate(self.value, index, self._leaf)
                emitter.store(self.kv, math.select(inside, found, math.const(0.0, "float32")), [number])

    # ---- a tile -----------------------------------------------------------------------------------------------------

    def _column(self, j: Any) -> Any:
        """The column of this thread's number j: runs of four or two, where there are as many."""
        run = next(size for size in (4, 2, 1) if self.columns % size == 0)
        if run == self.columns:
            return self.tx * run + j
        number, within = self.emitter.divmod(j, run)
        return self.emitter.simplify(number * (run * self.tile.across) + self.tx * run + within)

    def _multiply(
        self, sums: Any, other: int, terms: int, left: Callable[[Any, Any], Any], right: Callable[[Any, Any], Any]
    ) -> None:
        """Adds products of so many terms to the sums of `down` queries with `other` keys or columns."""
        emitter, down = self.emitter, self.tile.down
        a, b = local(down, "float32"), local(other, "float32")

        def one(k: Any) -> None:
            with unrolled(emitter, down) as i:
                emitter.store(a, left(k, i), [i])
            with unrolled(emitter, other) as j:
                emitter.store(b, right(k, j), [j])
            with unrolled(emitter, down) as i, unrolled(emitter, other) as j:
                at = i * other + j
                emitter.store(sums, sums[at] + a[i] * b[j], [at])

        _repeat(emitter, terms, one)

    def _score(self) -> None:
        tile, emitter, pitch = self.tile, self.emitter, _padded(self.tile.keys)
        with unrolled(emitter, tile.down * tile.own_keys) as i:
            emitter.store(self.scores, tirx.const(0.0, "float32"), [i])

        def left(d: Any, i: Any) -> Any:
            return self.q[d, self.ty * tile.down + i]

        def right(d: Any, j: Any) -> Any:
            return self.kv[d * pitch + self.tx * tile.own_keys + j]

        self._multiply(self.scores, tile.own_keys, self.depth, left, right)

    def _to_powers(self, start: Any) -> None:
        """Finishes the scores; what came before is scaled by the greatest one, and powers go to shared memory."""
        emitter, tile, math, parts = self.emitter, self.tile, self.emitter.math, self.parts
        least, whole = math.const(float(tirx.min_value("float32").value), "float32"), self.keys % tile.keys == 0
        with unrolled(emitter, tile.down) as i:
            own = self.ty * tile.down + i
            top = local(1, "float32")
            emitter.store(top, self.top[i], [0])
            with unrolled(emitter, tile.own_keys) as j:
                at = i * tile.own_keys + j
                number = self.tx * tile.own_keys + j

                def leaf(value: int, index: Index, at: Any = at) -> Scalar:
                    return Scalar(self.scores[at]) if value == parts.scores else self._leaf(value, index)

                index = (*self.softmax_lead, self._row(own), self._key(start, number))
                score = emitter.evaluate(self.scored, index, leaf)
                score = math.let(math.select(whole or start + number < self.keys, score, least))
                emitter.store(self.scores, score, [at])
                emitter.store(top, math.max(Scalar(top[0]), score), [0])
            greatest = math.let(Scalar(top[0]))
            lanes = tile.across // 2
            while lanes:
                greatest = math.let(math.max(greatest, exchanged(greatest, lanes)))
                lanes //= 2
            scale = math.let(math.exp(Scalar(self.top[i]) - greatest))
            emitter.store(self.top, greatest, [i])
            emitter.store(self.total, Scalar(self.total[i]) * scale, [i])
            with unrolled(emitter, self.columns) as j:
                at = i * self.columns + j
                emitter.store(self.sums, Scalar(self.sums[at]) * scale, [at])
            with unrolled(emitter, tile.own_keys) as j:
                number = self.tx * tile.own_keys + j
                power = math.let(math.exp(Scalar(self.scores[i * tile.own_keys + j]) - greatest))
                inside = whole or start + number < self.keys
                power = math.let(math.select(inside, power, math.const(0.0, "float32")))
                emitter.store(self.total, Scalar(self.total[i]) + power, [i])
                emitter.store(self.powers, power, [number, own])

    def _mix(self) -> None:
        tile, width = self.tile, self.columns * self.tile.across

        def left(k: Any, i: Any) -> Any:
            return self.powers[k, self.ty * tile.down + i]

        def right(k: Any, j: Any) -> Any:
            return self.kv[k * width + self._column(j)]

        self._multiply(self.sums, self.columns, tile.keys, left, right)

    def _store(self, group: Group) -> None:
        """The result of this thread, over the sums of its queries' powers, to where it belongs."""
        emitter, tile, math, result = self.emitter, self.tile, self.emitter.math, self.emitter.result()
        with unrolled(emitter, tile.down) as i:
            total = math.let(Scalar(self.total[i]))
            lanes = tile.across // 2
            while lanes:
                total = math.let(total + exchanged(total, lanes))
                lanes //= 2
            row = emitter.simplify(self.first + self.ty * tile.down + i)
            with unrolled(emitter, self.columns) as j:
                column = self._column(j)
                inside = math.all(
                    self.queries % tile.queries == 0 or row < self.queries,
                    self.columns * tile.across == self.width or column < self.width,
                )
                with only_if(inside):
                    at = destination(group, self.parts, (*self.head, row, column))
                    value = Scalar(self.sums[i * self.columns + j]) / total
                    result.put(math.cast(value, result.type.dtype), result.position(at))
