"""Convolutions and matrix products of float16 or bfloat16 on tensor cores, with sums in float32.

    copies on their way   memory -> shared memory, 32 terms of k of both sides, `STAGES` such parts in a ring: while one
                          is multiplied, the others come
    fragments             shared memory -> registers of a warp, by ldmatrix
    products              16 x 8 sums += (16 x 16) * (16 x 8), by mma.m16n8k16, for a warp's tile of sums in registers
    results               by way of shared memory to rows: a warp finishes and writes runs of neighbours

One barrier stands in each step of 32 terms: behind it, the part that was multiplied last is free for the next copies,
and the part that all have waited for is there. A step's copies are one group, which may be empty; so there are always
as many groups behind a part as it takes to wait for it.

How both sides lie in shared memory, and come to fragments, `sides` says. (Parallel Thread Execution ISA, 9.7.14.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda.core_tiles import STAGES, STEP, Tile, choose
from specc.backends.tvm.cuda.intrinsics import FRAGMENT, address, copies_end, multiply, wait, warp_barrier
from specc.backends.tvm.cuda.operands import Results, anchor_of, product
from specc.backends.tvm.cuda.runs import WEIGHTS, Runs, sides, terms_of
from specc.backends.tvm.cuda.sides import Side
from specc.backends.tvm.cuda.threads import WARP, barrier, grid, local, only_if, shared, unrolled
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.ir.dtypes import HALVES
from specc.targets import Target

_LEAST = 8
"""The least extent of rows, columns and terms for which a tile is worth its while."""


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group with a product of numbers of 16 bits and pointwise steps behind it; None for another."""
    found = anchor_of(group)
    if found is None:
        return None
    anchor, sizes = found
    step = group.step(anchor)
    kinds = {group.type(operand).dtype for operand in step.operands[:2]}
    batch, rows, columns, terms = sizes
    if len(kinds) != 1 or not kinds <= set(HALVES) or min(rows, columns, terms) < _LEAST:
        return None
    weight = step.operands[1]
    packings = {weight: WEIGHTS} if step.op != "matmul" and group.inputs[weight].frozen else {}
    tile, splits = choose((batch, rows, columns, terms_of(group, step)), target, choices)
    return Template(lambda emitter: _Cores(emitter, anchor, tile, splits).emit(), packings)


class _Cores:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, anchor: int, tile: Tile, splits: int) -> None:
        self.emitter, self.tile, self.splits = emitter, tile, splits
        self.step = emitter.group.step(anchor)
        self.dtype = emitter.group.type(self.step.operands[0]).dtype
        self.product = product(emitter, self.step)
        self.results = Results(emitter, anchor, self.product, splits)

    def emit(self) -> None:
        emitter, tile, p = self.emitter, self.tile, self.product
        left, right = sides(emitter, self.step, (p.batch, p.rows, p.columns, p.terms))
        down, across = -(-p.rows // tile.rows), -(-p.columns // tile.columns)
        with grid(emitter, p.batch * self.splits * down * across, tile.threads) as (block, thread):
            rest, column = emitter.divmod(block, across)
            rest, row = emitter.divmod(rest, down)
            b, split = emitter.divmod(rest, self.splits)
            place = (b, row * tile.rows, column * tile.columns)
            memory = shared((tile.shared // 4,), "float32")
            sums = self._multiply((left, right), memory, place, split, thread)

            def take(row: Any, column: Any, total: Callable[[Any], Scalar]) -> None:
                m, n = emitter.simplify(place[1] + row), emitter.simplify(place[2] + column)
                whole = p.rows % tile.rows == 0, p.columns % tile.columns == 0
                with only_if(emitter.math.all(whole[0] or m < p.rows, whole[1] or n < p.columns)):
                    self.results.put_run((b, m, n), split, total)

            finish(emitter, tile, sums, memory, self.results.run, thread, take)
        self.results.add_up()

    def _multiply(
        self, both: tuple[Runs, Runs], memory: Any, place: tuple[Any, Any, Any], split: Any, thread: Any
    ) -> Any:
        """The sums of a thread over the terms of one part, in registers."""
        emitter, tile = self.emitter, self.tile
        steps = -(-max(side.terms for side in both) // STEP)
        steps = -(-steps // self.splits)
        start = split * (steps * STEP)
        whole = steps * STEP * self.splits

        def side(runs: Runs, extent: int, first: int) -> Side:
            bounded = runs.extent % extent != 0, runs.terms < whole
            return Side(runs, extent, STEP, bounded, first, tile.part // 4, tile.threads)

        sides = side(both[0], tile.rows, 0), side(both[1], tile.columns, tile.rows * STEP // 2)

        def fetch(number: Any) -> None:
            """Begins to copy the part of a step."""
            stage = number % STAGES
            for side, first in zip(sides, place[1:]):
                side.fetch(emitter, memory, (place[0], first, emitter.simplify(start + number * STEP)), stage, thread)

        count = tile.down // 16 * (tile.across // 8) * FRAGMENT
        sums = local(count, "float32")
        with unrolled(emitter, count) as number:
            emitter.store(sums, tirx.const(0.0, "float32"), [number])
        for number in range(STAGES - 1):
            if number < steps:
                fetch(number)
            copies_end()
        with emitter.serial(steps) as step:
            wait(STAGES - 2)
            barrier()
            ahead = emitter.simplify(step + STAGES - 1)
            with only_if(ahead < steps if steps >= STAGES else False):
                fetch(ahead)
            copies_end()
            multiply_part(emitter, self.dtype, tile, sides, memory, sums, step % STAGES, thread)
        return sums


def multiply_part(
    emitter: Emitter,
    dtype: str,
    tile: Tile,
    sides: tuple[Side, Side],
    memory: Any,
    sums: Any,
    stage: Any,
    thread: Any,
    terms: int = STEP,
    beside: Any = 0,
) -> None:
    """Adds the products of so many terms in one part of shared memory to the sums of a thread; the tile begins at
    column `beside` there."""
    warp, lane = emitter.divmod(thread, WARP)
    row, column = emitter.divmod(warp, tile.columns // tile.across)
    left, right = (local(extent // 16 * FRAGMENT, "uint32") for extent in (tile.down, tile.across))
    with unrolled(emitter, terms // 16) as k:
        with unrolled(emitter, tile.down // 16) as i:
            first = emitter.simplify(row * tile.down + i * 16)
            sides[0].load(emitter, memory, left, i, (first, k), stage, lane, second="own")
        with unrolled(emitter, tile.across // 16) as j:
            first = emitter.simplify(beside + column * tile.across + j * 16)
            sides[1].load(emitter, memory, right, j, (first, k), stage, lane, second="k")
        with unrolled(emitter, tile.down // 16) as i, unrolled(emitter, tile.across // 8) as j:
            at = (i * (tile.across // 8) + j) * FRAGMENT
            multiply(dtype, address(sums, at), address(left, i * FRAGMENT), address(right, j * (FRAGMENT // 2)))


def finish(
    emitter: Emitter,
    tile: Tile,
    sums: Any,
    memory: Any,
    run: int,
    thread: Any,
    take: Callable[[Any, Any, Callable[[Any], Scalar]], None],
) -> None:
    """Gives a warp's sums away, 16 rows after the other: from fragments to shared memory, and from there in runs.

    `take` has the row and the column in the tile that a run begins with, and what gives the sum of a number.
    """
    warp, lane = emitter.divmod(thread, WARP)
    row, column = emitter.divmod(warp, tile.columns // tile.across)
    group, pair = emitter.divmod(lane, 4)
    own = warp * tile.staged

    def read(first: Any, number: Any) -> Scalar:
        return Scalar(memory[emitter.simplify(first + number)])

    barrier()
    for i in range(tile.down // 16):
        with unrolled(emitter, tile.across // 8) as j, unrolled(emitter, FRAGMENT) as e:
            below, beside = emitter.divmod(e, 2)
            at = own + (group + 8 * below) * tile.pitch + j * 8 + pair * 2 + beside
            emitter.store(memory, sums[(i * (tile.across // 8) + j) * FRAGMENT + e], [emitter.simplify(at)])
        warp_barrier()
        with emitter.serial(-(-16 * tile.across // (WARP * run))) as number:
            r, c = emitter.divmod(number * WARP + lane, tile.across // run)
            at = emitter.simplify(own + r * tile.pitch + c * run)
            take(row * tile.down + i * 16 + r, column * tile.across + c * run, partial(read, at))
        warp_barrier()
