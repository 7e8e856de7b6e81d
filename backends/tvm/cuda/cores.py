"""Convolutions and matrix products of float16 or bfloat16 on tensor cores, with sums in float32.

    copies on their way   memory -> shared memory, 32 terms of k of both sides, `STAGES` such parts in a ring: while one
                          is multiplied, the others come
    fragments             shared memory -> registers of a warp, by ldmatrix
    products              16 x 8 sums += (16 x 16) * (16 x 8), by mma.m16n8k16, for a warp's tile of sums in registers
    results               by way of shared memory to rows: a warp finishes and writes runs of neighbours

One barrier stands in each step of 32 terms: behind it, the part that was multiplied last is free for the next copies,
and the part that all have waited for is there. A step's copies are one group, which may be empty; so there are always
as many groups behind a part as it takes to wait for it.

In shared memory, runs of 8 numbers lie in another order than in the matrix (`_slot`): the eight rows that ldmatrix
reads at a time, and the runs that eight threads write, are in eight different groups of banks, without gaps between
rows. A side whose runs lie along its own index, not along k, is transposed on the way to registers.

(Parallel Thread Execution ISA, 9.7.14; Kerr, Merrill and Tran, "CUTLASS", 2017; its tiles in shared memory without
conflicts: cutlass/media/docs/implicit_gemm_convolution.md.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm import tirx

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda.core_tiles import STAGES, STEP, Tile, choose
from specc.backends.tvm.cuda.intrinsics import (
    FRAGMENT,
    address,
    copies_end,
    copy,
    load_fragment,
    multiply,
    wait,
    warp_barrier,
)
from specc.backends.tvm.cuda.operands import Results, anchor_of, product
from specc.backends.tvm.cuda.runs import RUN, WEIGHTS, Runs, sides, terms_of
from specc.backends.tvm.cuda.threads import WARP, barrier, grid, local, only_if, shared, unrolled
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.expression import Scalar
from specc.backends.tvm.group import Group
from specc.ir.dtypes import HALVES
from specc.targets import Target

_LEAST = 8
"""The least extent of rows, columns and terms for which a tile is worth its while."""

_WORDS = RUN // 2
"""Words of shared memory that a run takes."""


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
            self._finish(sums, memory, place, split, thread)
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
        sides = (
            _Side(both[0], tile.rows, 0, tile, whole),
            _Side(both[1], tile.columns, tile.rows * STEP // 2, tile, whole),
        )

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
            self._multiply_part(sides, memory, sums, step % STAGES, thread)
        return sums

    def _multiply_part(self, sides: tuple[_Side, _Side], memory: Any, sums: Any, stage: Any, thread: Any) -> None:
        """Adds the products of the terms in one part of shared memory."""
        emitter, tile = self.emitter, self.tile
        warp, lane = emitter.divmod(thread, WARP)
        row, column = emitter.divmod(warp, tile.columns // tile.across)
        left, right = (local(extent // 16 * FRAGMENT, "uint32") for extent in (tile.down, tile.across))
        with unrolled(emitter, STEP // 16) as k:
            with unrolled(emitter, tile.down // 16) as i:
                first = emitter.simplify(row * tile.down + i * 16)
                sides[0].load(emitter, memory, left, i, (first, k), stage, lane, second="own")
            with unrolled(emitter, tile.across // 16) as j:
                first = emitter.simplify(column * tile.across + j * 16)
                sides[1].load(emitter, memory, right, j, (first, k), stage, lane, second="k")
            with unrolled(emitter, tile.down // 16) as i, unrolled(emitter, tile.across // 8) as j:
                at = (i * (tile.across // 8) + j) * FRAGMENT
                multiply(
                    self.dtype, address(sums, at), address(left, i * FRAGMENT), address(right, j * (FRAGMENT // 2))
                )

    def _finish(self, sums: Any, memory: Any, place: tuple[Any, Any, Any], split: Any, thread: Any) -> None:
        """Finishes a warp's sums, 16 rows after the other: from fragments to shared memory, and from there in rows."""
        emitter, tile, p = self.emitter, self.tile, self.product
        warp, lane = emitter.divmod(thread, WARP)
        row, column = emitter.divmod(warp, tile.columns // tile.across)
        group, pair = emitter.divmod(lane, 4)
        own, run = warp * tile.staged, self.results.run
        whole = p.rows % tile.rows == 0, p.columns % tile.columns == 0

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
                m = emitter.simplify(place[1] + row * tile.down + i * 16 + r)
                n = emitter.simplify(place[2] + column * tile.across + c * run)
                at = emitter.simplify(own + r * tile.pitch + c * run)
                with only_if(emitter.math.all(whole[0] or m < p.rows, whole[1] or n < p.columns)):
                    self.results.put_run((place[0], m, n), split, partial(read, at))
            warp_barrier()


class _Side:
    """One side in shared memory: of each part `extent` x 32 numbers from word `first` of the part on.

    `whole` are the terms of all parts together, with what is beyond the last.
    """

    def __init__(self, runs: Runs, extent: int, first: int, tile: Tile, whole: int) -> None:
        self.runs, self.extent, self.first, self.tile = runs, extent, first, tile
        self.bounded = runs.extent % extent != 0, runs.terms < whole
        self.lines, self.across = (extent, STEP // RUN) if runs.along == "k" else (STEP, extent // RUN)

    def _slot(self, emitter: Emitter, stage: Any, line: Any, run: Any) -> Any:
        """The word of shared memory at which run `run` of a line begins: neighbouring lines have theirs elsewhere."""
        turned = emitter.divmod(line, max(1, RUN // self.across))[0] % min(RUN, self.across)
        place = line * self.across + tirx.bitwise_xor(_index(run), _index(turned))
        return stage * (self.tile.part // 4) + self.first + place * _WORDS

    def fetch(self, emitter: Emitter, memory: Any, first: tuple[Any, Any, Any], stage: Any, thread: Any) -> None:
        """Begins to copy a part; `first` are the batch, the index and the term that it begins with."""
        b, index, term = first
        runs, count = self.runs, self.lines * self.across
        threads = self.tile.threads
        with unrolled(emitter, -(-count // threads)) as j:
            number = j * threads + thread
            with only_if(count % threads == 0 or number < count):
                if runs.spread:
                    run, line = emitter.divmod(number, self.lines)
                else:
                    line, run = emitter.divmod(number, self.across)
                to = self._slot(emitter, stage, line, run)
                own, k = (line, run * RUN) if runs.along == "k" else (run * RUN, line)
                own, k = emitter.simplify(index + own), emitter.simplify(term + k)
                for part in range(0, RUN, runs.width):
                    m, t = (own, k + part) if runs.along == "k" else (own + part, k)
                    inside = [m < runs.extent if self.bounded[0] else True, t < runs.terms if self.bounded[1] else True]
                    source = runs.at(b, emitter.simplify(m), emitter.simplify(t))
                    copy(address(memory, to + part // 2), _address(source), runs.width, emitter.math.all(*inside))

    def load(
        self,
        emitter: Emitter,
        memory: Any,
        fragments: Any,
        number: Any,
        first: tuple[Any, Any],
        stage: Any,
        lane: Any,
        second: str,
    ) -> None:
        """Fragment `number`: 16 of the side's own index from the first on, and 16 terms, the `first[1]`th of a part.

        It is four matrices of 8 x 8; `second` says along which index the second one lies beside the first.
        """
        index, k = first
        matrix, row = emitter.divmod(lane, 8)
        outer, inner = emitter.divmod(matrix, 2)
        beside, deeper = (inner, outer) if second == "own" else (outer, inner)
        if self.runs.along == "k":
            line, run = index + beside * 8 + row, k * 2 + deeper
        else:
            line, run = k * 16 + deeper * 8 + row, emitter.divmod(index, RUN)[0] + beside
        at = self._slot(emitter, stage, emitter.simplify(line), emitter.simplify(run))
        load_fragment(fragments, number * FRAGMENT, address(memory, at), self.runs.along == "own")


def _index(value: Any) -> Any:
    return tirx.const(value, "int32") if isinstance(value, int) else value


def _address(load: Any) -> Any:
    return tirx.call_intrin("handle", "tirx.address_of", load)
