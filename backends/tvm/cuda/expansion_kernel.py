"""An inverted residual in one launch: its wide tensor in shared memory, some channels at a time.

    source      memory -> shared memory, the pixels of a tile with its halo, all channels, once
    expanded    source by the expansion's weights of a step's channels: 16 bits on tensor cores, float32 in registers;
                bias and pointwise steps on the sums -> shared memory as float32, zeros around the picture
    filtered    as in `separable_kernel`: shared memory -> a thread's run of 8 pixels of a channel
    products    as there, by the projection's weights; without a projection, runs are finished and stored

What is around the picture is zero behind the activation, as the depthwise convolution has it, not what the activation
makes of a bias. Two barriers stand in each step: behind the expansion, when the step's channels are there, and behind
filtering, when these are read, and what the product reads is there. Between them come the projection's weights of this
step and the expansion's of the next one, which nobody reads then: so there is one place for each. A product and the
next expansion follow each other without a barrier.

(Qararyah et al., "Fusing Depthwise and Pointwise Convolutions for Efficient Inference on GPUs", arXiv:2404.19331.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from specc.backends.tvm.cuda import cores
from specc.backends.tvm.cuda.expansion_tiles import SQUARE, Shape, Tile
from specc.backends.tvm.cuda.intrinsics import FRAGMENT, address, copies_end, copy, wait
from specc.backends.tvm.cuda.runs import RUN, Runs, padded
from specc.backends.tvm.cuda.separable_kernel import Chain, Separable
from specc.backends.tvm.cuda.separable_products import CoreProduct, PlainProduct
from specc.backends.tvm.cuda.sides import Side
from specc.backends.tvm.cuda.threads import WARP, barrier, grid, local, only_if, shared, unravel, unrolled
from specc.backends.tvm.emitter import Emitter
from specc.backends.tvm.expression import Scalar

Keep = Callable[[Any, Any, Scalar], None]
"""Gets a channel of a step, a pixel of the tile with its halo, and their sum."""

Pixel = Callable[[Any], tuple[Any, list[Any]]]
"""Whether a pixel of the tile with its halo is in the picture, and its row and column there."""


@dataclass(frozen=True)
class Block(Chain):
    """With its expansion, and what the depthwise convolution reads; without a projection, `last` is that one, and
    `middle` the result."""

    expand: int
    wide: int


class Expansion(Separable):
    """Writes the kernel."""

    chain: Block
    tile: Tile
    shape: Shape

    def emit(self) -> None:
        emitter, tile, shape = self.emitter, self.tile, self.shape
        down, across = self._tiles()
        steps = -(-shape.channels // tile.depth)
        parts = -(-shape.outputs // tile.rows) if tile.rows else steps // tile.steps
        with grid(emitter, shape.pictures * down * across * parts, tile.threads) as (block, self.thread):
            part = self._stand(block, parts)
            self.picture = shared((prod(self.inputs), tile.pitch), "float32")
            self.taps = shared((tile.depth, prod(self.window.kernel) | 1), "float32")
            start = 0 if tile.rows else emitter.simplify(part * tile.steps)
            self._run_through(start, steps if tile.rows else tile.steps)

    def _run_through(self, start: Any, steps: int) -> None:
        """So many steps from `start` on."""
        emitter, product = self.emitter, self._product()
        step = emitter.group.step(self.chain.expand)
        source = (CoreSource if self.tile.halves else PlainSource)(
            emitter, [emitter.buffers[value] for value in step.operands[:2]], self.tile, self.shape, self.thread
        )
        product.begin()
        source.begin(self.number, self._pixel)
        source.fetch(start)
        copies_end()
        self._put_taps(start)
        wait(0)
        barrier()
        with emitter.serial(steps) as turn:
            step, ahead = emitter.simplify(start + turn), emitter.simplify(start + turn + 1)
            more = turn + 1 < steps if steps > 1 else False
            self._expand(step, source)
            barrier()
            with only_if(more):
                source.fetch(ahead)
            product.fetch(step)
            copies_end()
            self._filter(step, product.keep)
            product.put(step)
            wait(0)
            barrier()
            with only_if(more):
                self._put_taps(ahead)
            product.multiply(step)
        product.finish(self._take, self.results.run)

    def _product(self) -> CoreProduct | PlainProduct | _Nothing:
        """What is done with the filtered pixels."""
        if not self.tile.rows:
            return _Nothing()
        weight = self.emitter.buffers[self.emitter.group.step(self.chain.last).operands[1]]
        kind = CoreProduct if self.tile.halves else PlainProduct
        return kind(self.emitter, weight, self.tile, self.shape, self.first, self.thread)

    # ---- expansion --------------------------------------------------------------------------------------------------

    def _pixel(self, pixel: Any) -> tuple[Any, list[Any]]:
        emitter, window, step = self.emitter, self.window, self.step
        extents, padding = emitter.group.type(self.chain.wide).concrete[2:], step.attrs["padding"]
        at = [
            emitter.simplify(origin * s + i - p)
            for origin, s, i, p in zip(self.origin, window.stride, emitter.divmod(pixel, self.inputs[1]), padding)
        ]
        return tirx.all(*(tirx.all(i >= 0, i < extent) for i, extent in zip(at, extents, strict=True))), at

    def _expand(self, step: Any, source: CoreSource | PlainSource) -> None:
        """The wide tensor's channels of a step, behind its pointwise steps, to shared memory."""
        emitter, math, chain = self.emitter, self.emitter.math, self.chain
        extents = emitter.group.type(chain.wide).concrete[2:]

        def keep(channel: Any, pixel: Any, total: Scalar) -> None:
            c = self._channel(step, channel)
            inside, at = self._pixel(pixel)
            # Around the picture, other operands of the pointwise steps are read at its border.
            at = [tirx.min(tirx.max(i, 0), extent - 1) for i, extent in zip(at, extents, strict=True)]
            value = self._pointwise(chain.expand, chain.wide, (self.number, c, *at), total)
            kept = math.select(inside, value, math.const(0.0, "float32"))
            emitter.store(self.picture, kept, [pixel, emitter.simplify(channel)])

        source.multiply(keep)

    # ---- results ----------------------------------------------------------------------------------------------------

    def _finished(self, step: Any, channel: Any, place: tuple[Any, Any], sums: Any) -> Any:
        if self.tile.rows:
            return super()._finished(step, channel, place, sums)
        emitter, tile, (height, width) = self.emitter, self.tile, self.window.places
        c = emitter.simplify(step * tile.depth + channel)
        y, x = (emitter.simplify(o + p) for o, p in zip(self.origin, (place[0], place[1] * RUN), strict=True))
        whole = self.shape.channels % tile.depth == 0, height % tile.extents[0] == 0
        for first in range(0, RUN, self.results.run):
            at = emitter.simplify(x + first)
            there = (whole[0] or c < self.shape.channels, whole[1] or y < height, width % RUN == 0 or at < width)

            def total(number: Any, first: int = first) -> Scalar:
                return Scalar(sums[first + number])

            with only_if(emitter.math.all(*there)):
                self.results.put_run(((self.number, y), c, at), 0, total)
        return None


class _Nothing:
    """Stands for a product where there is no projection: what was filtered is stored already."""

    def begin(self) -> None: ...

    def fetch(self, step: Any) -> None: ...

    def put(self, step: Any) -> None: ...

    def keep(self, channel: Any, run: Any, held: Any) -> None: ...

    def multiply(self, step: Any) -> None: ...

    def finish(self, take: Any, run: int) -> None: ...


# ---- the source, and its product with the expansion's weights --------------------------------------------------------


class CoreSource:
    """Of 16 bits: both sides in shared memory as `sides` has them. A line of the source is a pixel, of the weights a
    channel; both have runs of 8 sources."""

    def __init__(self, emitter: Emitter, operands: list[Any], tile: Tile, shape: Shape, thread: Any) -> None:
        self.emitter, self.tile, self.shape, self.thread = emitter, tile, shape, thread
        self.data, self.weight = operands
        self.split, self.lines = tile.warps(shape.window), tile.lines(shape.window)
        self.pixels = prod(tile.inputs(shape.window))

    def begin(self, number: Any, place: Pixel) -> None:
        """Brings the source of the picture `number` to shared memory."""
        emitter, tile, shape = self.emitter, self.tile, self.shape
        self.memory = shared((tile.expansion(shape),), "float32")

        def pixel(b: Any, n: Any, k: Any) -> Any:
            inside, at = place(n)
            read = tirx.BufferLoad(self.data, [number, k, *at])
            return tirx.if_then_else(inside, read, tirx.const(0, "uint16"))

        terms, channels = padded(shape.sources), -(-shape.channels // tile.depth) * tile.depth
        source = Runs(self.pixels, shape.sources, "k", 1, pixel, spread=True)
        rows = Runs(shape.channels, terms, "k", RUN, lambda b, m, k: self.weight[m, k])
        bounded = self.pixels < self.lines, shape.sources < shape.terms
        self.source = Side(source, self.lines, shape.terms, bounded, 0, 0, tile.threads)
        behind, bounded = self.lines * shape.lines, (shape.channels < channels, terms < shape.terms)
        self.weights = Side(rows, tile.depth, shape.terms, bounded, behind, 0, tile.threads)
        self.source.fetch(emitter, self.memory, (0, 0, 0), 0, self.thread)

    def fetch(self, step: Any) -> None:
        """Begins to bring the weights of a step's channels."""
        first = self.emitter.simplify(step * self.tile.depth)
        self.weights.fetch(self.emitter, self.memory, (0, first, 0), 0, self.thread)

    def multiply(self, keep: Keep) -> None:
        """Gives the sums of a step's channels to `keep`."""
        with self.emitter.serial(self.tile.turns(self.shape.window)) as turn:
            self._multiply(self.emitter.simplify(turn * self.split.columns), keep)

    def _multiply(self, beside: Any, keep: Keep) -> None:
        """The sums of all warps for the pixels from `beside` on."""
        emitter, split, dtype = self.emitter, self.split, self.shape.dtype
        warp, lane = emitter.divmod(self.thread, WARP)
        row, column = emitter.divmod(warp, split.columns // split.across)
        first = emitter.simplify(beside + column * split.across)
        sums = local(split.down * split.across // WARP, "float32")
        with only_if(self.lines % split.columns == 0 or first < self.lines):
            with unrolled(emitter, split.down * split.across // WARP) as number:
                emitter.store(sums, tirx.const(0.0, "float32"), [number])
            sides, terms = (self.weights, self.source), self.shape.terms
            cores.multiply_part(emitter, dtype, split, sides, self.memory, sums, 0, self.thread, terms, beside)
            group, pair = emitter.divmod(lane, 4)
            with unrolled(emitter, split.across // 8) as j, unrolled(emitter, 2) as two:
                pixel = emitter.simplify(first + j * 8 + pair * 2 + two)
                with (
                    only_if(self.lines == self.pixels or pixel < self.pixels),
                    unrolled(emitter, split.down // 16) as i,
                    unrolled(emitter, 2) as below,
                ):
                    at = (i * (split.across // 8) + j) * FRAGMENT + below * 2 + two
                    keep(emitter.simplify(row * split.down + i * 16 + group + below * 8), pixel, Scalar(sums[at]))


class PlainSource:
    """Of float32: a thread has squares of sums in registers, one after the other. A line is a source: of all pixels, or
    of a step's channels."""

    def __init__(self, emitter: Emitter, operands: list[Any], tile: Tile, shape: Shape, thread: Any) -> None:
        self.emitter, self.tile, self.shape, self.thread = emitter, tile, shape, thread
        self.data, self.weight = operands
        self.pixels, self.lines = prod(tile.inputs(shape.window)), tile.lines(shape.window)

    def _numbers(self, count: int, body: Callable[[Any], None]) -> None:
        """`body` for each number below `count`, shared out to the threads."""
        emitter, threads = self.emitter, self.tile.threads
        with emitter.serial(-(-count // threads)) as turn:
            number = emitter.simplify(turn * threads + self.thread)
            with only_if(count % threads == 0 or number < count):
                body(number)

    def begin(self, number: Any, place: Pixel) -> None:
        """Begins to bring the source of the picture `number` to shared memory, zeros around it."""
        emitter, sources, lines = self.emitter, self.shape.sources, self.lines
        self.source = shared((sources, lines), "float32")
        self.weights = shared((sources, self.tile.depth), "float32")

        def bring(at: Any) -> None:
            k, pixel = unravel(emitter, at, (sources, lines))
            inside, position = place(pixel)
            inside = emitter.math.all(inside, lines == self.pixels or pixel < self.pixels)
            copy(address(self.source, k, pixel), address(self.data, number, k, *position), 2, inside)

        self._numbers(sources * lines, bring)

    def fetch(self, step: Any) -> None:
        """Begins to bring the weights of a step's channels."""
        emitter, depth, channels = self.emitter, self.tile.depth, self.shape.channels
        width = next(width for width in (4, 2, 1) if channels % width == 0)

        def bring(at: Any) -> None:
            k, run = unravel(emitter, at, (self.shape.sources, depth // width))
            c = emitter.simplify(step * depth + run * width)
            there = True if channels % depth == 0 else c < channels
            copy(address(self.weights, k, run * width), address(self.weight, k, c), 2 * width, there)

        self._numbers(self.shape.sources * depth // width, bring)

    def multiply(self, keep: Keep) -> None:
        """Gives the sums of a step's channels to `keep`."""
        emitter, across = self.emitter, self.tile.depth // SQUARE
        sums, left, right = (local(count, "float32") for count in (SQUARE**2, SQUARE, SQUARE))

        def square(number: Any) -> None:
            place, own = emitter.divmod(number, across)
            with unrolled(emitter, SQUARE**2) as at:
                emitter.store(sums, tirx.const(0.0, "float32"), [at])
            with emitter.serial(self.shape.sources) as k:
                with unrolled(emitter, SQUARE) as i:
                    emitter.store(left, self.weights[k, emitter.simplify(own * SQUARE + i)], [i])
                with unrolled(emitter, SQUARE) as j:
                    emitter.store(right, self.source[k, emitter.simplify(place * SQUARE + j)], [j])
                with unrolled(emitter, SQUARE) as i, unrolled(emitter, SQUARE) as j:
                    emitter.store(sums, sums[i * SQUARE + j] + left[i] * right[j], [i * SQUARE + j])
            with unrolled(emitter, SQUARE) as j:
                pixel = emitter.simplify(place * SQUARE + j)
                with only_if(self.lines == self.pixels or pixel < self.pixels), unrolled(emitter, SQUARE) as i:
                    keep(emitter.simplify(own * SQUARE + i), pixel, Scalar(sums[i * SQUARE + j]))

        self._numbers(self.lines // SQUARE * across, square)
