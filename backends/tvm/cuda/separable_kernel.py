"""A depthwise convolution and the 1x1 convolution behind it in one launch, what is between them in shared memory.

    picture     memory -> registers -> shared memory as float32, some channels of a tile and its halo, zeros around it
    filtered    shared memory -> a thread's run of 8 pixels of a channel, the pointwise steps on them, -> shared memory,
                rounded where the product is of 16 bits
    products    filtered pixels by the weights of a block's outputs: 16 bits on tensor cores, float32 in registers
    results     behind the last channels: as the templates of products (`cores`, `products`) have them

The channels of a picture stand beside each other in shared memory, an odd number of words from pixel to pixel: threads
that bring neighbouring pixels of one channel, and threads that filter one pixel of neighbouring channels, use different
banks. A thread brings the same pixels in every step, of several channels: it finds out where they are only once. The
pictures of the next channels are on their way to registers while these are computed, and so are weights, to the other
half of their memory. Two barriers stand in each step: between filtering and multiplying, and behind it, when the next
pictures are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from specc.backends.tvm.cuda import cores, products
from specc.backends.tvm.cuda.depthwise import WRITTEN_OUT
from specc.backends.tvm.cuda.intrinsics import address, copies_end, pair, put, wait
from specc.backends.tvm.cuda.operands import Destination, Results
from specc.backends.tvm.cuda.runs import RUN, Runs, padded
from specc.backends.tvm.cuda.separable_tiles import Shape, Tile
from specc.backends.tvm.cuda.sides import Side
from specc.backends.tvm.cuda.threads import barrier, grid, local, only_if, shared, unravel, unrolled
from specc.backends.tvm.emitter import Emitter, Index
from specc.backends.tvm.expression import Scalar

Take = Callable[[Any, Any, Callable[[Any], Scalar]], None]
"""Gets the row and the column in the tile of a run of sums, and what gives the sum of a number."""


@dataclass(frozen=True)
class Chain:
    """The values of a group: its depthwise convolution, what the 1x1 convolution reads, and that one."""

    first: int
    middle: int
    last: int


class Separable:
    """Writes the kernel."""

    def __init__(self, emitter: Emitter, chain: Chain, tile: Tile, shape: Shape) -> None:
        self.emitter, self.chain, self.tile, self.shape, self.window = emitter, chain, tile, shape, shape.window
        self.step = emitter.group.step(chain.first)
        self.inputs = tile.inputs(self.window)
        last = emitter.group.step(chain.last)
        bias = last.operands[2:]
        height, width = self.window.places
        self.results = Results(
            emitter,
            chain.last,
            Destination(
                shape.pictures * height,
                shape.outputs,
                width,
                lambda b, m, n: (b[0], m, b[1], n),
                width,
                (lambda index: emitter.input(bias[0])(index[1])) if bias else None,
            ),
        )
        if not tile.halves:  # of float32, a thread has four sums beside each other
            self.results.run = min(self.results.run, 4)

    def emit(self) -> None:
        emitter, tile, shape = self.emitter, self.tile, self.shape
        down, across = (-(-p // e) for p, e in zip(self.window.places, tile.extents, strict=True))
        parts, steps = -(-shape.outputs // tile.rows), -(-shape.channels // tile.depth)
        with grid(emitter, shape.pictures * down * across * parts, tile.threads) as (block, self.thread):
            rest, part = emitter.divmod(block, parts)
            rest, column = emitter.divmod(rest, across)
            self.number, row = emitter.divmod(rest, down)
            self.origin = emitter.simplify(row * tile.extents[0]), emitter.simplify(column * tile.extents[1])
            self.first = emitter.simplify(part * tile.rows)
            self.picture = shared((prod(self.inputs), tile.depth + 1), "float32")
            self.taps = shared((tile.depth, prod(self.window.kernel) | 1), "float32")
            self.held = local(tile.shares(self.window).count, "float32")
            weight = emitter.group.step(self.chain.last).operands[1]
            kind = _Cores if tile.halves else _Plain
            product = kind(emitter, emitter.buffers[weight], tile, shape, self.first, self.thread)
            product.begin()
            self._fetch(0)
            self._put(0)
            barrier()
            with emitter.serial(steps) as step:
                more = step + 1 < steps if steps > 1 else False
                with only_if(more):
                    product.fetch(emitter.simplify(step + 1))
                    self._fetch(emitter.simplify(step + 1))
                product.asked()
                self._filter(step, product)
                product.ready()
                barrier()
                product.multiply(step)
                with only_if(more):
                    self._put(emitter.simplify(step + 1))
                    product.put(emitter.simplify(step + 1))
                barrier()
            product.finish(self._take, self.results.run)

    # ---- pictures ---------------------------------------------------------------------------------------------------

    def _shares(self) -> Iterator[tuple[int, Any, Any, Any]]:
        """What a thread brings of a step's pictures: the number of its first register, a pixel of the tile with its
        halo, whether there is one, and the first of the channels there, as many as `Tile.shares` says."""
        emitter, shares, pixels = self.emitter, self.tile.shares(self.window), prod(self.inputs)
        part, own = emitter.divmod(self.thread, self.tile.threads // shares.parts)
        for turn in range(shares.pixels):
            pixel = emitter.simplify(turn * (self.tile.threads // shares.parts) + own)
            there = shares.pixels * self.tile.threads // shares.parts == pixels or pixel < pixels
            yield turn * shares.channels, pixel, there, emitter.simplify(part * shares.channels)

    def _fetch(self, step: Any) -> None:
        """Reads the pictures of a step's channels, with their halo, to registers."""
        emitter, tile, window, math = self.emitter, self.tile, self.window, self.emitter.math
        data, padding = self.step.operands[0], self.step.attrs["padding"]
        x, (_, sources, *extents) = emitter.input(data), emitter.group.type(data).concrete
        each = self.shape.channels // sources
        for register, pixel, there, channel in self._shares():
            place = emitter.divmod(pixel, self.inputs[1])
            at = [
                emitter.simplify(origin * s + i - p)
                for origin, s, i, p in zip(self.origin, window.stride, place, padding)
            ]
            inside = [tirx.all(i >= 0, i < extent) for i, extent in zip(at, extents, strict=True)]
            with unrolled(emitter, tile.shares(window).channels) as j:
                c = emitter.simplify(step * tile.depth + channel + j)
                known = self.shape.channels % tile.depth == 0 or c < self.shape.channels
                value = x(self.number, emitter.divmod(c, each)[0], *at)
                found = math.select(math.all(there, *inside, known), value, math.const(0.0, "float32"))
                emitter.store(self.held, found, [register + j])

    def _put(self, step: Any) -> None:
        """Writes what is in registers to shared memory, and brings the weights of the step's channels there."""
        emitter, tile = self.emitter, self.tile
        for register, pixel, there, channel in self._shares():
            with only_if(there), unrolled(emitter, tile.shares(self.window).channels) as j:
                emitter.store(self.picture, self.held[register + j], [pixel, emitter.simplify(channel + j)])
        weight, taps = emitter.input(self.step.operands[1]), prod(self.window.kernel)
        with emitter.serial(-(-tile.depth * taps // tile.threads)) as turn:
            number = emitter.simplify(turn * tile.threads + self.thread)
            with only_if(tile.depth * taps % tile.threads == 0 or number < tile.depth * taps):
                channel, *tap = unravel(emitter, number, (tile.depth, *self.window.kernel))
                value = weight(self._channel(step, channel), 0, *tap)
                emitter.store(self.taps, value, [channel, emitter.divmod(number, taps)[1]])

    def _channel(self, step: Any, channel: Any) -> Any:
        """A channel of a step; the last one of all behind it."""
        c = self.emitter.simplify(step * self.tile.depth + channel)
        return c if self.shape.channels % self.tile.depth == 0 else tirx.min(c, self.shape.channels - 1)

    # ---- filtering --------------------------------------------------------------------------------------------------

    def _filter(self, step: Any, product: _Cores | _Plain) -> None:
        """What the product reads of a step's channels: a thread has runs of 8 pixels beside each other."""
        emitter, tile = self.emitter, self.tile
        runs = tile.depth * tile.columns // RUN
        with unrolled(emitter, -(-runs // tile.threads)) as j:
            number = emitter.simplify(j * tile.threads + self.thread)
            with only_if(runs % tile.threads == 0 or number < runs):
                run, channel = emitter.divmod(number, tile.depth)
                product.keep(channel, run, self._run(step, channel, run))

    def _run(self, step: Any, channel: Any, run: Any) -> Any:
        """The registers with a run of what is between the convolutions."""
        emitter, window, math = self.emitter, self.window, self.emitter.math
        row, beside = emitter.divmod(run, self.tile.extents[1] // RUN)
        sums = local(RUN, "float32")
        with unrolled(emitter, RUN) as i:
            emitter.store(sums, tirx.const(0.0, "float32"), [i])
        corner = emitter.simplify(row * window.stride[0]), emitter.simplify(beside * RUN * window.stride[1])
        offsets = window.offsets(RUN, 1)
        few = RUN * prod(window.kernel) <= WRITTEN_OUT
        with (unrolled if few else Emitter.serial)(emitter, window.kernel[0]) as tap:
            line = emitter.simplify((corner[0] + tap * window.dilation[0]) * self.inputs[1] + corner[1])

            def read(buffer: Any, *at: Any) -> Scalar:
                return math.let(Scalar(buffer[tuple(emitter.simplify(i) for i in at)]))

            values = {offset: read(self.picture, line + offset, channel) for offset in offsets}
            for other in range(window.kernel[1]):
                factor = read(self.taps, channel, tap * window.kernel[1] + other)
                for i in range(RUN):
                    value = values[i * window.stride[1] + other * window.dilation[1]]
                    emitter.store(sums, Scalar(sums[i]) + value * factor, [i])
        return self._finished(step, channel, (row, beside), sums)

    def _finished(self, step: Any, channel: Any, place: tuple[Any, Any], sums: Any) -> Any:
        """A run behind the bias and the pointwise steps, as the product reads it; zeros in channels that there are not.

        Of 16 bits, two numbers are a word.
        """
        emitter, math, chain = self.emitter, self.emitter.math, self.chain
        bias, c = self.step.operands[2:], self._channel(step, channel)
        whole = self.shape.channels % self.tile.depth == 0
        there = whole or emitter.simplify(step * self.tile.depth + channel) < self.shape.channels
        y, x = (emitter.simplify(o + p) for o, p in zip(self.origin, (place[0], place[1] * RUN), strict=True))

        def value(i: Any) -> Scalar:
            at = [
                # Some pixels of a tile may lie behind the picture's last ones: what they come to is not stored.
                pixel if extent % size == 0 else tirx.min(pixel, extent - 1)
                for pixel, extent, size in zip((y, x + i), self.window.places, self.tile.extents, strict=True)
            ]
            total = Scalar(sums[i])
            if bias:
                total = total + emitter.input(bias[0])(c)
            total = math.let(total)

            def leaf(number: int, index: Index) -> Scalar:
                return total if number == chain.first else emitter.input(number)(*index)

            found = math.let(emitter.evaluate(chain.middle, (self.number, c, *at), leaf))
            return math.let(math.select(there, found, math.const(0.0, "float32")))

        if self.tile.halves:
            held = local(RUN // 2, "uint32")
            with unrolled(emitter, RUN // 2) as i:
                emitter.store(held, pair(self.shape.dtype, value(i * 2).expr, value(i * 2 + 1).expr), [i])
        else:
            held = local(RUN, "float32")
            with unrolled(emitter, RUN) as i:
                emitter.store(held, value(i), [i])
        return held

    # ---- results ----------------------------------------------------------------------------------------------------

    def _take(self, row: Any, column: Any, total: Callable[[Any], Scalar]) -> None:
        """Finishes the sums of a run."""
        emitter, tile, (height, width) = self.emitter, self.tile, self.window.places
        inner = emitter.divmod(emitter.simplify(column), tile.extents[1])
        y, x = (emitter.simplify(o + i) for o, i in zip(self.origin, inner, strict=True))
        m = emitter.simplify(self.first + row)
        inside = (
            self.shape.outputs % tile.rows == 0 or m < self.shape.outputs,
            height % tile.extents[0] == 0 or y < height,
            width % tile.extents[1] == 0 or x < width,
        )
        with only_if(emitter.math.all(*inside)):
            self.results.put_run(((self.number, y), m, x), 0, total)


# ---- products --------------------------------------------------------------------------------------------------------


class _Cores:
    """The product of 16 bits: both sides in shared memory as `sides` has them, the weights of two steps."""

    def __init__(self, emitter: Emitter, weight: Any, tile: Tile, shape: Shape, first: Any, thread: Any) -> None:
        self.emitter, self.tile, self.first, self.thread = emitter, tile, first, thread
        self.dtype, terms = shape.dtype, padded(shape.channels)
        whole = -(-shape.channels // tile.depth) * tile.depth
        rows = Runs(shape.outputs, terms, "k", RUN, lambda b, m, k: weight[m, k])
        filtered = Runs(tile.columns, tile.depth, "own", RUN, lambda b, n, k: None)
        bounded = shape.outputs % tile.rows != 0, terms < whole
        weights, behind = tile.weights, 2 * tile.weights
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
        self.fetch(0)
        self.asked()

    def fetch(self, step: Any) -> None:
        """Begins to bring a step's weights."""
        place = 0, self.first, self.emitter.simplify(step * self.tile.depth)
        self.sides[0].fetch(self.emitter, self.memory, place, step % 2, self.thread)

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
            emitter, self.dtype, tile.cores, self.sides, self.memory, self.sums, step % 2, self.thread, tile.depth
        )

    def finish(self, take: Take, run: int) -> None:
        cores.finish(self.emitter, self.tile.cores, self.sums, self.memory, run, self.thread, take)


class _Plain:
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
        self.weights = products.Side(tile.rows, True, tile.threads, self.read)
        self.filtered = shared((tile.depth, tile.columns + 4), "float32")
        self.sums = local(tile.down * tile.across, "float32")
        with unrolled(self.emitter, tile.down * tile.across) as number:
            self.emitter.store(self.sums, tirx.const(0.0, "float32"), [number])
        self.fetch(0)
        self.put(0)

    def fetch(self, step: Any) -> None:
        """Reads a step's weights to registers."""
        self.weights.fetch(self.emitter, self.thread, self.emitter.simplify(step * self.tile.depth))

    def put(self, step: Any) -> None:
        """Writes them to a half of their memory."""
        self.weights.put(self.emitter, self.thread, step % 2)

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
            return self.weights.memory[step % 2, k, index]

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
