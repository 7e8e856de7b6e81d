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

from specc.backends.tvm.cuda.depthwise import WRITTEN_OUT
from specc.backends.tvm.cuda.intrinsics import pair
from specc.backends.tvm.cuda.operands import Destination, Results
from specc.backends.tvm.cuda.runs import RUN
from specc.backends.tvm.cuda.separable_products import CoreProduct, PlainProduct
from specc.backends.tvm.cuda.separable_tiles import Shape, Tile
from specc.backends.tvm.cuda.threads import barrier, grid, local, only_if, shared, unravel, unrolled
from specc.backends.tvm.emitter import Emitter, Index
from specc.backends.tvm.expression import Scalar


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
        down, across = self._tiles()
        parts, steps = -(-shape.outputs // tile.rows), -(-shape.channels // tile.depth)
        with grid(emitter, shape.pictures * down * across * parts, tile.threads) as (block, self.thread):
            self._stand(block, parts)
            self.picture = shared((prod(self.inputs), tile.depth + 1), "float32")
            self.taps = shared((tile.depth, prod(self.window.kernel) | 1), "float32")
            self.held = local(tile.shares(self.window).count, "float32")
            weight = emitter.group.step(self.chain.last).operands[1]
            kind = CoreProduct if tile.halves else PlainProduct
            product = kind(emitter, emitter.buffers[weight], tile, shape, self.first, self.thread)
            product.begin()
            product.fetch(0)
            product.asked()
            product.put(0)
            self._fetch(0)
            self._put(0)
            self._put_taps(0)
            barrier()
            with emitter.serial(steps) as step:
                more = step + 1 < steps if steps > 1 else False
                with only_if(more):
                    product.fetch(emitter.simplify(step + 1))
                    self._fetch(emitter.simplify(step + 1))
                product.asked()
                self._filter(step, product.keep)
                product.ready()
                barrier()
                product.multiply(step)
                with only_if(more):
                    self._put(emitter.simplify(step + 1))
                    self._put_taps(emitter.simplify(step + 1))
                    product.put(emitter.simplify(step + 1))
                barrier()
            product.finish(self._take, self.results.run)

    def _tiles(self) -> tuple[int, int]:
        """How many tiles cover a picture, down and across."""
        (height, width), (rows, columns) = self.window.places, self.tile.extents
        return -(-height // rows), -(-width // columns)

    def _stand(self, block: Any, parts: int) -> Any:
        """Finds a block's picture, the corner of its tile, and its first output; gives which of the `parts` it is."""
        emitter, tile, (down, across) = self.emitter, self.tile, self._tiles()
        rest, part = emitter.divmod(block, parts)
        rest, column = emitter.divmod(rest, across)
        self.number, row = emitter.divmod(rest, down)
        self.origin = emitter.simplify(row * tile.extents[0]), emitter.simplify(column * tile.extents[1])
        self.first = emitter.simplify(part * tile.rows)
        return part

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
        """Writes what is in registers to shared memory."""
        emitter, tile = self.emitter, self.tile
        for register, pixel, there, channel in self._shares():
            with only_if(there), unrolled(emitter, tile.shares(self.window).channels) as j:
                emitter.store(self.picture, self.held[register + j], [pixel, emitter.simplify(channel + j)])

    def _put_taps(self, step: Any) -> None:
        """Brings the depthwise weights of a step's channels to shared memory."""
        emitter, tile = self.emitter, self.tile
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

    def _filter(self, step: Any, keep: Callable[[Any, Any, Any], None]) -> None:
        """Gives what the product reads of a step's channels away: a channel, and a run of 8 pixels in registers."""
        emitter, tile = self.emitter, self.tile
        runs = tile.depth * tile.columns // RUN
        with unrolled(emitter, -(-runs // tile.threads)) as j:
            number = emitter.simplify(j * tile.threads + self.thread)
            with only_if(runs % tile.threads == 0 or number < runs):
                run, channel = emitter.divmod(number, tile.depth)
                keep(channel, run, self._run(step, channel, run))

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
        c = self._channel(step, channel)
        whole = self.shape.channels % self.tile.depth == 0
        there = whole or emitter.simplify(step * self.tile.depth + channel) < self.shape.channels
        y, x = (emitter.simplify(o + p) for o, p in zip(self.origin, (place[0], place[1] * RUN), strict=True))

        def value(i: Any) -> Scalar:
            at = [
                # Some pixels of a tile may lie behind the picture's last ones: what they come to is not stored.
                pixel if extent % size == 0 else tirx.min(pixel, extent - 1)
                for pixel, extent, size in zip((y, x + i), self.window.places, self.tile.extents, strict=True)
            ]
            found = self._pointwise(chain.first, chain.middle, (self.number, c, *at), Scalar(sums[i]))
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

    def _pointwise(self, first: int, last: int, index: Index, total: Scalar) -> Scalar:
        """The value `last` at `index`, where the products of the convolution `first` sum to `total`: behind its bias
        and the pointwise steps between the two."""
        emitter, math = self.emitter, self.emitter.math
        bias = emitter.group.step(first).operands[2:]
        if bias:
            total = total + emitter.input(bias[0])(index[1])
        total = math.let(total)

        def leaf(number: int, index: Index) -> Scalar:
            return total if number == first else emitter.input(number)(*index)

        return math.let(emitter.evaluate(last, index, leaf))

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
