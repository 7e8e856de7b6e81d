"""The product behind filtered pixels: of 16 bits on tensor cores, of float32 in registers.

    weights     memory -> shared memory, of `parts` steps beside each other
    filtered    registers -> shared memory (`keep`), where all threads of a block read it
    sums        in registers over all steps; behind the last one given away in runs (`finish`)

With two parts, the weights of the next step come while this one is multiplied; with one, they come while their own
step is filtered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from specc.backends.tvm.cuda import cores, products
from specc.backends.tvm.cuda.intrinsics import address, copies_end, put, wait
from specc.backends.tvm.cuda.runs import RUN, Runs, padded
from specc.backends.tvm.cuda.separable_tiles import Shape, Tile
from specc.backends.tvm.cuda.sides import Side
from specc.backends.tvm.cuda.threads import local, shared, unrolled
from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.expression import Scalar

Take = Callable[[Any, Any, Callable[[Any], Scalar]], None]
"""Gets the row and the column in the tile of a run of sums, and what gives the sum of a number."""


class CoreProduct:
    """The product of 16 bits: both sides in shared memory as `sides` has them, the weights of two steps."""

    def __init__(self, emitter: Emitter, weight: Any, tile: Tile, shape: Shape, first: Any, thread: Any) -> None:
        self.emitter, self.tile, self.first, self.thread = emitter, tile, first, thread
        self.dtype, terms = shape.dtype, padded(shape.channels)
        whole = -(-shape.channels // tile.depth) * tile.depth
        rows = Runs(shape.outputs, terms, "k", RUN, lambda b, m, k: weight[m, k])
        filtered = Runs(tile.columns, tile.depth, "own", RUN, lambda b, n, k: None)
        bounded = shape.outputs % tile.rows != 0, terms < whole
        weights, behind = tile.weights, tile.parts * tile.weights
        self.sides = (
            Side(rows, tile.rows, tile.depth, bounded, 0, weights, tile.threads),
            Side(filtered, tile.columns, tile.depth, (False, False), behind, 0, tile.threads),
        )

    def begin(self) -> None:
        self.memory = shared((self.tile.memory,), "float32")
        count = self.tile.down * self.tile.across // 32
        self.sums = local(count, "float32")
        with unrolled(self.emitter, count) as number:
            self.emitter.store(self.sums, tirx.const(0.0, "float32"), [number])

    def fetch(self, step: Any) -> None:
        """Begins to bring a step's weights."""
        place = 0, self.first, self.emitter.simplify(step * self.tile.depth)
        self.sides[0].fetch(self.emitter, self.memory, place, step % self.tile.parts, self.thread)

    def asked(self) -> None:
        """What was begun since the last call is one group, even if there is nothing in it."""
        copies_end()

    def put(self, step: Any) -> None:
        """They come by themselves."""

    def keep(self, channel: Any, run: Any, held: Any) -> None:
        """Stores a run of pixels of a channel."""
        put(
            address(self.memory, self.emitter.simplify(self.sides[1].slot(self.emitter, 0, channel, run))),
            address(held, 0),
        )

    def ready(self) -> None:
        """Waits for the weights of this step; those of the next one may be on their way."""
        wait(1)

    def multiply(self, step: Any) -> None:
        emitter, tile = self.emitter, self.tile
        cores.multiply_part(
            emitter,
            self.dtype,
            tile.cores,
            self.sides,
            self.memory,
            self.sums,
            step % self.tile.parts,
            self.thread,
            tile.depth,
        )

    def finish(self, take: Take, run: int) -> None:
        cores.finish(self.emitter, self.tile.cores, self.sums, self.memory, run, self.thread, take)


class PlainProduct:
    """The product of float32: each thread has a tile of sums in registers."""

    def __init__(self, emitter: Emitter, weight: Any, tile: Tile, shape: Shape, first: Any, thread: Any) -> None:
        self.emitter, self.tile, self.thread = emitter, tile, thread

        def read(index: Any, k: Any) -> Scalar:
            m, math = emitter.simplify(first + index), emitter.math
            m = m if shape.outputs % tile.rows == 0 else tirx.min(m, shape.outputs - 1)
            value = Scalar(tirx.BufferLoad(weight, [emitter.simplify(k), m]), reads=True)
            there = shape.channels % tile.depth == 0 or k < shape.channels
            return math.select(there, value, math.const(0.0, "float32"))

        self.read = read

    def begin(self) -> None:
        tile = self.tile
        self.weights = products.Side(tile.rows, True, tile.threads, self.read, tile.parts)
        self.filtered = shared((tile.depth, tile.columns + 4), "float32")
        self.sums = local(tile.down * tile.across, "float32")
        with unrolled(self.emitter, tile.down * tile.across) as number:
            self.emitter.store(self.sums, tirx.const(0.0, "float32"), [number])

    def fetch(self, step: Any) -> None:
        """Reads a step's weights to registers."""
        self.weights.fetch(self.emitter, self.thread, self.emitter.simplify(step * self.tile.depth))

    def put(self, step: Any) -> None:
        """Writes them to a half of their memory."""
        self.weights.put(self.emitter, self.thread, step % self.tile.parts)

    def asked(self) -> None:
        """Nothing comes by itself."""

    def keep(self, channel: Any, run: Any, held: Any) -> None:
        """Stores a run of pixels of a channel, four at a time."""
        for part in range(0, RUN, 4):
            put(address(self.filtered, channel, self.emitter.simplify(run * RUN + part)), address(held, part))

    def ready(self) -> None:
        """Nothing is waited for."""

    def multiply(self, step: Any) -> None:
        def left(k: Any, index: Any) -> Any:
            return self.weights.memory[step % self.tile.parts, k, index]

        def right(k: Any, index: Any) -> Any:
            return self.filtered[k, index]

        products.multiply_part(self.emitter, self.tile.plain, left, right, self.sums, self.thread)

    def finish(self, take: Take, run: int) -> None:
        tile, sums = self.tile, self.sums
        with unrolled(self.emitter, tile.down) as i, unrolled(self.emitter, tile.across // run) as part:
            first = part * run
            m, n = products.own(self.emitter, tile.plain, self.thread, i, first)

            def total(number: Any, at: Any = i * tile.across + first) -> Scalar:
                return Scalar(sums[at + number])

            take(m, n, total)
