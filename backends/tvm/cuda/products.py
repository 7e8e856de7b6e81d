"""Convolutions and matrix products in float32, in tiles that a block of threads computes from shared memory.

A convolution is a product (`operands`) without its matrix of patches in memory ("implicit GEMM"): pixels are neighbours
in memory, and so are the threads that read them. Frozen weights are stored with k outermost, so that a block reads runs
of them.

A block computes `rows` x `columns` results. For 16 steps of k after the other it brings both sides to shared memory, by
way of registers: while one such part is multiplied, the next one is on its way. Each thread holds a tile of 4x4 to 8x8
results in registers, and reads runs of four of each side. Where there are too few tiles for the GPU's
multiprocessors, k is split: each part is a block of its own, and a second launch adds them up.

Which tile, the time decides that a rough model gives: as many waves of blocks as there are, each as long as the tile's
multiplications take with as many warps as a multiprocessor has then. (Tiles in shared memory and registers: Volkov and
Demmel 2008; Kerr, Merrill and Tran, "CUTLASS", 2017.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda.occupancy import LAUNCH, ROUND_TRIP
from specc.backends.tvm.cuda.operands import Product, Results, anchor_of, product
from specc.backends.tvm.cuda.threads import BLOCK, barrier, grid, local, only_if, shared, unrolled
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.backends.tvm.packing import Packing
from specc.targets import Target

STEP = 16
"""Terms of k that lie in shared memory at a time."""

_LEAST = 8
"""The least extent of rows, columns and terms for which a tile is worth its while."""


@dataclass(frozen=True)
class Tile:
    """Results of a block, and of each of its threads."""

    rows: int
    columns: int
    down: int
    across: int

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def threads(self) -> int:
        return self.rows * self.columns // (self.down * self.across)


TILES = (
    Tile(128, 128, 8, 8),
    Tile(128, 64, 8, 4),
    Tile(64, 128, 4, 8),
    Tile(64, 64, 4, 4),
    Tile(64, 32, 4, 4),
    Tile(32, 64, 4, 4),
    Tile(32, 32, 4, 4),
)
_SPLITS = (1, 2, 4, 8, 16)


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group with a product that is worth a tile and pointwise steps behind it; None for another."""
    found = anchor_of(group)
    if found is None:
        return None
    anchor, sizes = found
    step = group.step(anchor)
    if not worth(sizes):
        return None
    weight = step.operands[1]
    packings = {}
    if step.op != "matmul" and group.inputs[weight].frozen:
        packings[weight] = Packing("terms")
    tile, splits = choose(sizes, target, choices)
    return Template(lambda emitter: _write(emitter, anchor, tile, splits), packings)


def worth(sizes: tuple[int, int, int, int]) -> bool:
    """Whether a product is large enough for tiles; `sizes` are batch, rows, columns and terms."""
    _, rows, columns, terms = sizes
    return min(rows, columns, terms) >= _LEAST and rows * columns * terms >= 32 * 32 * STEP


def _write(emitter: Emitter, anchor: int, tile: Tile, splits: int) -> None:
    factors = product(emitter, emitter.group.step(anchor))
    results = Results(emitter, anchor, factors, splits)
    Tiles(emitter, factors, tile, splits, results.put).emit()
    results.add_up()


def cycles(tile: Tile, splits: int, sizes: tuple[int, int, int, int], target: Target) -> float:
    """What a product takes, in cycles of a multiprocessor."""
    batch, rows, columns, terms = sizes
    waves = -(-batch * -(-rows // tile.rows) * -(-columns // tile.columns) * splits // target.processors)
    busy = sqrt(min(1.0, waves * tile.threads / BLOCK))
    taken = waves * tile.rows * tile.columns * -(-terms // splits) / (128 * rate(tile) * busy)
    added = LAUNCH + ROUND_TRIP + splits * batch * rows * columns * 8 / 1500
    return taken + (added if splits > 1 else 0)


def rate(tile: Tile) -> float:
    """The part of a multiprocessor's instructions that multiply: with more results to a thread, fewer values come from
    shared memory for each of them."""
    held = tile.down * tile.across
    return held / (held + 2 * (tile.down + tile.across) / 4 + 4)


def choose(sizes: tuple[int, int, int, int], target: Target, choices: Choices) -> tuple[Tile, int]:
    """The tile, and the number of parts of k, that take least time; `sizes` are batch, rows, columns and terms."""
    batch, rows, columns, terms = sizes

    def blocks(tile: Tile) -> int:
        return batch * -(-rows // tile.rows) * -(-columns // tile.columns)

    def cost(choice: tuple[Tile, int]) -> float:
        return cycles(*choice, sizes, target)

    def parts(tile: Tile) -> list[int]:
        few = blocks(tile) < target.processors
        return [splits for splits in _SPLITS if splits == 1 or (few and terms >= splits * 4 * STEP)]

    best = min(((tile, splits) for tile in TILES for splits in parts(tile)), key=cost)
    name = choices.take("tile", (tile.name for tile in TILES), best[0].name)
    tile = next(tile for tile in TILES if tile.name == name)
    splits = min(parts(tile), key=lambda splits: cost((tile, splits)))
    return tile, choices.near("splits", parts(tile), splits)


@dataclass
class Side:
    """One side of the product on its way: from the tensor by registers to shared memory, [parts, 16, extent]."""

    extent: int
    runs: bool
    """Whether neighbours along this side's own index, not along k, are neighbours in memory."""
    threads: int
    read: Callable[[Any, Any], Scalar]
    """The element at the index within the tile, and at term k."""
    parts: int = 2
    registers: Any = field(init=False)
    memory: Any = field(init=False)

    def __post_init__(self) -> None:
        self.count = self.extent * STEP // self.threads
        self.registers = local(self.count, "float32")
        # Threads that write a column of 16 terms: a row that is 4 longer spreads them over the banks.
        self.memory = shared((self.parts, STEP, self.extent + (0 if self.runs else 4)), "float32")

    def _at(self, emitter: Emitter, thread: Any, j: Any) -> tuple[Any, Any]:
        """The index, and the term within 16, of the element number j of a thread."""
        number = j * self.threads + thread
        if self.runs:
            term, index = emitter.divmod(number, self.extent)
        else:
            index, term = emitter.divmod(number, STEP)
        return index, term

    def fetch(self, emitter: Emitter, thread: Any, first: Any) -> None:
        """Reads the terms from `first` on to registers."""
        with unrolled(emitter, self.count) as j:
            index, term = self._at(emitter, thread, j)
            emitter.store(self.registers, self.read(index, first + term), [j])

    def put(self, emitter: Emitter, thread: Any, half: Any) -> None:
        """Writes what is in registers to one part of the shared memory."""
        with unrolled(emitter, self.count) as j:
            index, term = self._at(emitter, thread, j)
            emitter.store(self.memory, self.registers[j], [half, term, index])


Put = Callable[[tuple[Any, Any, Any], Any, Scalar], None]
"""What takes a sum: its place [b, m, n], the number of the part of k, and the sum."""


class Tiles:
    """Writes the launch that multiplies and gives every sum to `put`."""

    def __init__(self, emitter: Emitter, product: Product, tile: Tile, splits: int, put: Put) -> None:
        self.emitter, self.product, self.tile, self.splits, self.put = emitter, product, tile, splits, put

    def emit(self) -> None:
        emitter, tile, p = self.emitter, self.tile, self.product
        down, across = -(-p.rows // tile.rows), -(-p.columns // tile.columns)
        with grid(emitter, p.batch * self.splits * down * across, tile.threads) as (block, thread):
            rest, column = emitter.divmod(block, across)
            rest, row = emitter.divmod(rest, down)
            b, split = emitter.divmod(rest, self.splits)
            place = (b, row * tile.rows, column * tile.columns)
            accumulators = self._multiply(place, split, thread)
            with unrolled(emitter, tile.down) as i, unrolled(emitter, tile.across) as j:
                m, n = own(emitter, tile, thread, i, j)
                m, n = emitter.simplify(place[1] + m), emitter.simplify(place[2] + n)
                whole = p.rows % tile.rows == 0, p.columns % tile.columns == 0
                inside = emitter.math.all(whole[0] or m < p.rows, whole[1] or n < p.columns)
                with only_if(inside):
                    self.put((b, m, n), split, Scalar(accumulators[i * tile.across + j]))

    def _multiply(self, place: tuple[Any, Any, Any], split: Any, thread: Any) -> Any:
        """The sums of a thread's results over the terms of one part, in registers."""
        emitter, tile, p = self.emitter, self.tile, self.product
        b, row, column = place
        steps = -(-p.terms // STEP)
        steps = -(-steps // self.splits)
        start = split * (steps * STEP)
        whole = p.terms == steps * STEP * self.splits

        def read(side: Callable[..., Scalar], most: int, first: Any, left: bool, index: Any, k: Any) -> Scalar:
            at = emitter.simplify(first + index)
            at = at if most % (tile.rows if left else tile.columns) == 0 else tirx.min(at, most - 1)
            k = emitter.simplify(k)
            value = side(b, at, k) if left else side(b, k, at)
            return value if whole else emitter.math.select(k < p.terms, value, emitter.math.const(0.0, "float32"))

        sides = [
            Side(tile.rows, p.left_runs == "m", tile.threads, partial(read, p.left, p.rows, row, True)),
            Side(tile.columns, p.right_runs == "n", tile.threads, partial(read, p.right, p.columns, column, False)),
        ]
        accumulators = local(tile.down * tile.across, "float32")
        with unrolled(emitter, tile.down * tile.across) as number:
            emitter.store(accumulators, tirx.const(0.0, "float32"), [number])
        for side in sides:
            side.fetch(emitter, thread, start)
            side.put(emitter, thread, 0)
        barrier()
        if steps == 1:
            self._multiply_half(sides, accumulators, thread, 0)
            return accumulators
        with emitter.serial(steps) as step:
            with only_if(step + 1 < steps):
                for side in sides:
                    side.fetch(emitter, thread, emitter.simplify(start + (step + 1) * STEP))
            self._multiply_half(sides, accumulators, thread, step % 2)
            with only_if(step + 1 < steps):
                for side in sides:
                    side.put(emitter, thread, (step + 1) % 2)
                barrier()
        return accumulators

    def _multiply_half(self, sides: list[Side], accumulators: Any, thread: Any, half: Any) -> None:
        """Adds the products of the terms that lie in one half of the shared memory."""
        left, right = (lambda k, index, side=side: side.memory[half, k, index] for side in sides)
        multiply_part(self.emitter, self.tile, left, right, accumulators, thread)


def own(emitter: Emitter, tile: Tile, thread: Any, i: Any, j: Any) -> tuple[Any, Any]:
    """Where the results of a thread lie in the tile: runs of four, 32 such runs of a warp beside each other."""
    ty, tx = emitter.divmod(thread, tile.columns // tile.across)

    def spread(number: Any, own: Any, others: int, count: int) -> Any:
        if count <= 4:
            return own * count + number
        run, within = emitter.divmod(number, 4)
        return run * (others * 4) + own * 4 + within

    return (
        spread(i, ty, tile.rows // tile.down, tile.down),
        spread(j, tx, tile.columns // tile.across, tile.across),
    )


def multiply_part(
    emitter: Emitter,
    tile: Tile,
    left: Callable[[Any, Any], Any],
    right: Callable[[Any, Any], Any],
    accumulators: Any,
    thread: Any,
) -> None:
    """Adds the products of 16 terms in shared memory, of which each side reads the element at a term and an index."""
    down, across = local(tile.down, "float32"), local(tile.across, "float32")
    with unrolled(emitter, STEP) as k:
        with unrolled(emitter, tile.down) as i:
            emitter.store(down, left(k, own(emitter, tile, thread, i, 0)[0]), [i])
        with unrolled(emitter, tile.across) as j:
            emitter.store(across, right(k, own(emitter, tile, thread, 0, j)[1]), [j])
        with unrolled(emitter, tile.down) as i, unrolled(emitter, tile.across) as j:
            at = i * tile.across + j
            emitter.store(accumulators, accumulators[at] + down[i] * across[j], [at])
