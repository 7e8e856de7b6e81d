"""Attention of float16 or bfloat16 in one launch, with both of its products on tensor cores.

    queries   memory -> registers of a warp, which keep them: fragments of 16 x 16
    k and v   memory -> shared memory, a tile of keys of both, by copies on their way: while one is used, the next comes
    scores    16 queries x 8 keys += (16 x 16) * (16 x 8), by mma.m16n8k16; the pointwise steps on them in float32
    powers    of 2, in float32: by the greatest score of each query so far; to 16 bits for the second product
    result    16 queries x 8 columns += (16 x 16 powers) * (16 x 8)

A warp has 16 or 32 queries and all keys, so no score leaves its registers. Four threads have a row of scores: they
exchange their greatest ones, and in the end their sums of powers. Where two fragments of 16 x 8 sums lie side by side,
a thread has just those numbers that it is to have of 16 x 16 on the left of a product, in the same order: powers become
words of the second product with no exchange. One barrier stands in each step of a tile: behind it, the tile that all
have waited for is there, and the place of the one before is free for the next.

What a tile of keys changes of the tiles before is as in `attention`. Powers are rounded before they are divided by
their sum, which is of float32; a graph rounds them behind that. (Dao, "FlashAttention-2", arXiv:2307.08691; Parallel
Thread Execution ISA, 9.7.14.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import e, log2, prod
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda import occupancy
from specc.backends.tvm.cuda.attention import sizes_of
from specc.backends.tvm.cuda.core_tiles import LATENCY, PRODUCTS, SHARED_RATE
from specc.backends.tvm.cuda.intrinsics import (
    FRAGMENT,
    address,
    copies_end,
    multiply,
    pair,
    power_of_two,
    put,
    wait,
)
from specc.backends.tvm.cuda.occupancy import COPY_RATE
from specc.backends.tvm.cuda.runs import RUN, Runs, neighbours
from specc.backends.tvm.cuda.sides import Side, pitch
from specc.backends.tvm.cuda.threads import WARP, barrier, exchanged, grid, local, only_if, shared, unravel, unrolled
from specc.backends.tvm.emitter import Emitter, Index, Template
from specc.backends.tvm.expression import Scalar, narrowed
from specc.backends.tvm.group import Group
from specc.backends.tvm.halves import stored, to_bits
from specc.backends.tvm.kernels.attention_parts import Parts, destination, located, parts_of
from specc.ir.dtypes import DTYPES, HALVES
from specc.targets import Target

_LEAST = 8
"""The least number of queries, keys, terms and columns for which a tile is worth its while."""

_QUAD = (1, 2)
"""The bits in the numbers of the four threads that have a row of a fragment of sums."""


@dataclass(frozen=True)
class Tile:
    """The queries of a block and of each of its warps, and the keys of a step."""

    queries: int
    keys: int
    down: int

    @property
    def name(self) -> str:
        return f"{self.queries}x{self.keys}_{self.down}"

    @property
    def threads(self) -> int:
        return self.queries // self.down * WARP

    def values_at(self, depth: int) -> int:
        """The word of a part at which v begins, behind k."""
        return self.keys * pitch(_padded(depth) // RUN) * RUN // 2

    def part(self, depth: int, width: int) -> int:
        """Words of shared memory for a tile of k and of v."""
        return self.values_at(depth) + self.values_at(width)

    def shared(self, depth: int, width: int) -> int:
        """Bytes of shared memory: two parts."""
        return 2 * 4 * self.part(depth, width)

    def registers(self, depth: int, width: int) -> int:
        """A guess at the registers of a thread: scores, sums and queries, and what else it computes with."""
        return self.down // 16 * (self.keys // 2 + _padded(width) // 2 + _padded(depth) // 4 + 4) + 56


TILES = tuple(
    tile
    for tile in (Tile(q, k, d) for q in (16, 32, 64, 128) for k in (16, 32, 64, 128) for d in (16, 32))
    if WARP <= tile.threads <= 256
)


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is attention of 16 bits; None for another group, and where no tile fits."""
    parts = parts_of(group)
    if parts is None or not all(prod(step.type.concrete) for step in group.steps):
        return None
    factors = (*group.step(parts.scores).operands, *group.step(parts.mixed).operands)
    kinds = {group.type(factor).dtype for factor in factors}
    sizes = sizes_of(group, parts)
    if len(kinds) != 1 or not kinds <= set(HALVES) or min(sizes[1:]) < _LEAST:
        return None
    tile = choose(sizes, target, choices)
    return None if tile is None else Template(lambda emitter: _Attention(emitter, parts, tile).emit())


def held(tile: Tile, depth: int, width: int) -> int:
    """Blocks that share a multiprocessor."""
    return occupancy.resident(tile.threads, tile.registers(depth, width), tile.shared(depth, width))


def cycles(tile: Tile, sizes: tuple[int, int, int, int, int], target: Target) -> float:
    """What attention takes, in cycles of a multiprocessor; `sizes` as `attention.sizes_of` has them.

    A step is its products, or the reading of fragments, then what makes powers of scores, some 20 instructions each;
    copies come meanwhile. It takes two warps for each of the four schedulers to keep them busy.
    """
    heads, queries, keys, depth, width = sizes
    deep, warps = _padded(depth) + _padded(width), tile.threads // WARP
    products = tile.queries * tile.keys * deep / PRODUCTS
    fragments = warps * tile.keys * deep * 2 / SHARED_RATE
    powers = tile.queries * (tile.keys * 20 + _padded(width)) / 128
    blocks = heads * -(-queries // tile.queries)
    most = held(tile, depth, width)
    resident = min(most, -(-blocks // target.processors))
    busy = min(1.0, resident * warps / 8)
    step = max(
        resident * (max(products, fragments) + powers) / busy,
        resident * tile.keys * (depth + width) * 2 / COPY_RATE,
        LATENCY,
    )
    return occupancy.waves(blocks, resident, target) * (-(-keys // tile.keys) * (step + 100) + 1500)


def choose(sizes: tuple[int, int, int, int, int], target: Target, choices: Choices) -> Tile | None:
    """The tile that takes least time; None if none fits."""
    fitting = (tile for tile in TILES if held(tile, *sizes[3:]))
    found = {tile.name: tile for tile in sorted(fitting, key=lambda tile: cycles(tile, sizes, target))}
    return found[choices.take("tile", found, next(iter(found)))] if found else None


def _padded(extent: int) -> int:
    """The next multiple of what an instruction multiplies."""
    return -(-extent // 16) * 16


class _Attention:
    """Writes the kernel.

    `row` is a thread's row in a fragment of sums, with the one 8 below it, and 2 * `pair` its column, with the next.
    `rows`, `deep`, `across` and `wide` are numbers of fragments: of 16 of a warp's queries, 16 of the depth, 8 of a
    tile's keys, 8 of the columns.
    """

    def __init__(self, emitter: Emitter, parts: Parts, tile: Tile) -> None:
        self.emitter, self.group, self.parts, self.tile = emitter, emitter.group, parts, tile
        self.query, self.key = self.group.step(parts.scores).operands
        self.weights, self.value = self.group.step(parts.mixed).operands
        self.scored = self.group.step(parts.softmax).operands[0]
        self.dtype = self.group.type(self.query).dtype
        _, self.queries, self.keys, self.depth, self.width = sizes_of(self.group, parts)
        self.lead = self.group.type(parts.mixed).concrete[:-2]
        self.rows, self.deep = tile.down // 16, _padded(self.depth) // 16
        self.across, self.wide = tile.keys // 8, _padded(self.width) // 8

    def emit(self) -> None:
        emitter, tile = self.emitter, self.tile
        blocks, steps = -(-self.queries // tile.queries), -(-self.keys // tile.keys)
        with grid(emitter, prod(self.lead) * blocks, tile.threads) as (block, thread):
            head, number = emitter.divmod(block, blocks)
            self.head = unravel(emitter, head, tuple(self.lead))
            self.softmax_lead = located(emitter, self.weights, (*self.head, 0, 0), self.parts.softmax)[:-2]
            self.scores_lead = located(emitter, self.scored, (*self.softmax_lead, 0, 0), self.parts.scores)[:-2]
            warp, self.lane = emitter.divmod(thread, WARP)
            self.row, self.pair = emitter.divmod(self.lane, 4)
            self.first = emitter.simplify(number * tile.queries + warp * tile.down)
            self.memory = shared((min(steps, 2) * tile.part(self.depth, self.width),), "float32")
            keys, values = self._sides()

            def fetch(number: Any) -> None:
                start = emitter.simplify(number * tile.keys)
                keys.fetch(emitter, self.memory, (0, start, 0), number % 2, thread)
                values.fetch(emitter, self.memory, (0, 0, start), number % 2, thread)

            fetch(0)
            copies_end()
            fragments = self._load_queries()
            self.top, self.total = local(2 * self.rows, "float32"), local(2 * self.rows, "float32")
            scores, sums = (local(self.rows * n * FRAGMENT, "float32") for n in (self.across, self.wide))
            with unrolled(emitter, 2 * self.rows) as i:
                emitter.store(self.top, tirx.min_value("float32"), [i])
            self._clear(self.total, 2 * self.rows)
            self._clear(sums, self.rows * self.wide * FRAGMENT)
            with emitter.serial(steps) as step:
                wait(0)
                barrier()
                if steps > 1:
                    with only_if(step + 1 < steps):
                        fetch(step + 1)
                    copies_end()
                self._clear(scores, self.rows * self.across * FRAGMENT)
                self._multiply(scores, fragments, keys, (self.across, self.deep), step % 2)
                powers = self._to_powers(scores, sums, emitter.simplify(step * tile.keys))
                self._multiply(sums, powers, values, (self.wide, tile.keys // 16), step % 2)
            self._store(sums)

    # ---- what is multiplied -----------------------------------------------------------------------------------------

    def _sides(self) -> tuple[Side, Side]:
        """The keys of a tile x depth, and the columns x keys of a tile."""
        tile, part = self.tile, self.tile.part(self.depth, self.width)
        whole_keys = self.keys % tile.keys == 0
        keys = self._runs(self.key, (self.keys, self.depth), lambda j, d: (*self.scores_lead, d, j))
        values = self._runs(self.value, (self.width, self.keys), lambda w, j: (*self.head, j, w))
        deep, wide = 16 * self.deep, 8 * self.wide
        return (
            Side(keys, tile.keys, deep, (not whole_keys, deep != self.depth), 0, part, tile.threads),
            Side(
                values,
                wide,
                tile.keys,
                (wide != self.width, not whole_keys),
                tile.values_at(self.depth),
                part,
                tile.threads,
            ),
        )

    def _runs(self, value: int, extents: tuple[int, int], place: Callable[[Any, Any], Index]) -> Runs:
        """A side with so many of its own index and terms: copied, where it lies in runs of 16 bits; else computed."""
        emitter = self.emitter

        def lies(own: Any, k: Any) -> Any:
            def leaf(number: int, index: Index) -> Scalar:
                return Scalar(tirx.BufferLoad(emitter.buffers[number], list(map(emitter.simplify, index))))

            return emitter.evaluate(value, place(own, k), leaf).expr

        if self._only_moves(value):
            fixed = [emitter.bind(tirx.Var("fixed", "int32"), extent) for extent in extents]
            deeper = neighbours(emitter, extents[1], lambda k: lies(fixed[0], k))
            beside = neighbours(emitter, extents[0], lambda own: lies(own, fixed[1]))
            if max(deeper, beside) > 1:
                return Runs(
                    *extents, "k" if deeper >= beside else "own", max(deeper, beside), lambda b, own, k: lies(own, k)
                )

        def bits(b: Any, own: Any, k: Any) -> Any:
            inside = (tirx.min(i, extent - 1) for i, extent in zip((own, k), extents))
            return to_bits(emitter.evaluate(value, place(*inside), self._leaf).expr, self.dtype)

        return Runs(*extents, "k" if value == self.key else "own", 1, bits)

    def _only_moves(self, value: int) -> bool:
        """Whether the elements of a value are those of an input."""
        while value >= len(self.group.inputs):
            step = self.group.step(value)
            if not step.moves or len(step.operands) > 1:
                return False
            value = step.operands[0]
        return True

    def _load_queries(self) -> Any:
        """The fragments of a warp's queries, with zeros for what fills the depth up."""
        emitter, math = self.emitter, self.emitter.math
        words = local(self.rows * self.deep * FRAGMENT, "uint32")
        with unrolled(emitter, self.rows) as i, unrolled(emitter, self.deep) as k, unrolled(emitter, FRAGMENT) as word:
            beside, below = emitter.divmod(word, 2)
            two = []
            for number in range(2):
                d = emitter.simplify(k * 16 + beside * 8 + self.pair * 2 + number)
                whole = self.deep * 16 == self.depth
                index = (*self.scores_lead, self._row(i, below), d if whole else tirx.min(d, self.depth - 1))
                read = emitter.evaluate(self.query, index, self._leaf)
                two.append(math.select(whole or d < self.depth, read, math.const(0.0, "float32")).expr)
            emitter.store(words, pair(self.dtype, *two), [(i * self.deep + k) * FRAGMENT + word])
        return words

    def _leaf(self, number: int, index: Index) -> Scalar:
        return self.emitter.input(number)(*index)

    def _row(self, i: Any, below: Any) -> Any:
        """The query of this thread's row in fragment i; the last one behind it."""
        row = self.emitter.simplify(self.first + i * 16 + below * 8 + self.row)
        return row if self.queries % self.tile.queries == 0 else tirx.min(row, self.queries - 1)

    # ---- a tile -----------------------------------------------------------------------------------------------------

    def _clear(self, buffer: Any, count: int) -> None:
        with unrolled(self.emitter, count) as i:
            self.emitter.store(buffer, tirx.const(0.0, "float32"), [i])

    def _multiply(self, sums: Any, left: Any, right: Side, fragments: tuple[int, int], stage: Any) -> None:
        """sums[rows, columns] += left[rows, terms] * right, by (columns, terms) `fragments` of 8 and of 16."""
        emitter, (columns, terms) = self.emitter, fragments
        words = local(FRAGMENT, "uint32")
        with unrolled(emitter, terms) as k, unrolled(emitter, columns // 2) as j:
            right.load(emitter, self.memory, words, 0, (j * 16, k), stage, self.lane, second="k")
            with unrolled(emitter, self.rows) as i, unrolled(emitter, 2) as half:
                at = (i * columns + j * 2 + half) * FRAGMENT
                factor = address(left, (i * terms + k) * FRAGMENT)
                multiply(self.dtype, address(sums, at), factor, address(words, half * (FRAGMENT // 2)))

    def _to_powers(self, scores: Any, sums: Any, start: Any) -> Any:
        """Finishes the scores; what came before is scaled by the greatest one. The powers, as fragments."""
        emitter, math = self.emitter, self.emitter.math
        whole = self.keys % self.tile.keys == 0
        least = math.const(float(tirx.min_value("float32").value), "float32")
        powers = local(self.rows * self.across // 2 * FRAGMENT, "uint32")
        with unrolled(emitter, self.rows) as i, unrolled(emitter, 2) as below:
            own = i * 2 + below
            top = local(1, "float32")
            emitter.store(top, self.top[own], [0])

            def place(j: Any, beside: Any, i: Any = i, below: Any = below) -> tuple[Any, Any]:
                """Where a score of this row is in registers, and its key."""
                key = emitter.simplify(start + j * 8 + self.pair * 2 + beside)
                return (i * self.across + j) * FRAGMENT + below * 2 + beside, key

            with unrolled(emitter, self.across) as j, unrolled(emitter, 2) as beside:
                at, key = place(j, beside)

                def leaf(value: int, index: Index, at: Any = at) -> Scalar:
                    return Scalar(scores[at]) if value == self.parts.scores else self._leaf(value, index)

                index = (*self.softmax_lead, self._row(i, below), key if whole else tirx.min(key, self.keys - 1))
                score = emitter.evaluate(self.scored, index, leaf)
                score = math.let(math.select(whole or key < self.keys, score, least))
                emitter.store(scores, score, [at])
                emitter.store(top, math.max(Scalar(top[0]), score), [0])
            greatest = math.let(Scalar(top[0]))
            for lanes in _QUAD:
                greatest = math.let(math.max(greatest, exchanged(greatest, lanes)))
            scale = math.let(self._power(Scalar(self.top[own]) - greatest))
            emitter.store(self.top, greatest, [own])
            emitter.store(self.total, Scalar(self.total[own]) * scale, [own])
            with unrolled(emitter, self.wide) as j, unrolled(emitter, 2) as beside:
                at = (i * self.wide + j) * FRAGMENT + below * 2 + beside
                emitter.store(sums, Scalar(sums[at]) * scale, [at])
            with unrolled(emitter, self.across // 2) as k, unrolled(emitter, 2) as half:
                two = []
                for beside in range(2):
                    at, key = place(k * 2 + half, beside)
                    power = self._power(Scalar(scores[at]) - greatest)
                    power = math.let(math.select(whole or key < self.keys, power, math.const(0.0, "float32")))
                    emitter.store(self.total, Scalar(self.total[own]) + power, [own])
                    two.append(power.expr)
                word = (i * (self.across // 2) + k) * FRAGMENT + half * 2 + below
                emitter.store(powers, pair(self.dtype, *two), [word])
        return powers

    def _power(self, exponent: Scalar) -> Scalar:
        """E to a number of 0 or less."""
        return Scalar(power_of_two((exponent * log2(e)).expr))

    def _store(self, sums: Any) -> None:
        """The sums over those of the powers, to where they belong."""
        emitter, math, result = self.emitter, self.emitter.math, self.emitter.result()
        dtype = result.type.dtype

        def position(row: Any, column: Any) -> Any:
            return result.position(destination(self.group, self.parts, (*self.head, row, column)))

        row = emitter.bind(tirx.Var("row", "int32"), self.queries)
        run = min(2, neighbours(emitter, self.width, lambda column: result.buffer[tuple(position(row, column))]))
        with unrolled(emitter, self.rows) as i, unrolled(emitter, 2) as below:
            total = math.let(Scalar(self.total[i * 2 + below]))
            for lanes in _QUAD:
                total = math.let(total + exchanged(total, lanes))
            scale = math.let(math.const(1.0, "float32") / total)
            row = emitter.simplify(self.first + i * 16 + below * 8 + self.row)
            with unrolled(emitter, self.wide) as j, unrolled(emitter, 2 // run) as part:
                first = part * run
                column = emitter.simplify(j * 8 + self.pair * 2 + first)
                inside = math.all(
                    self.queries % self.tile.queries == 0 or row < self.queries,
                    self.wide * 8 == self.width or column < self.width,
                )
                with only_if(inside):
                    held = local(run, stored(dtype))
                    for number in range(run):
                        at = (i * self.wide + j) * FRAGMENT + below * 2 + first + number
                        value = math.cast(Scalar(sums[at]) * scale, dtype)
                        emitter.store(held, narrowed(T.Bind(value.expr), dtype), [number])
                    to = position(row, column)
                    if run == 1:
                        emitter.store(result.buffer, held[0], to)
                    else:
                        put(address(result.buffer, *to), address(held, 0), run * DTYPES[dtype])
