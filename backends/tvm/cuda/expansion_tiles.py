"""Which tile an expansion, the depthwise convolution behind it and perhaps a projection have in one launch: a model.

A block brings its pixels of the source, with their halo, to shared memory once. In each step it computes `depth`
channels of the wide tensor there, filters these, and multiplies by the projection's weights or stores them. Blocks that
share a multiprocessor share its instructions, as in `separable_tiles`; the weights of a step come while the pictures
are filtered, which takes as long as a read from memory at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

from specc.backends.tvm.cuda import core_tiles, occupancy, products, separable_tiles
from specc.backends.tvm.cuda.core_tiles import LATENCY, PRODUCTS, SHARED_RATE, START
from specc.backends.tvm.cuda.depthwise import Window
from specc.backends.tvm.cuda.occupancy import COPY_RATE
from specc.backends.tvm.cuda.runs import RUN
from specc.backends.tvm.cuda.separable_tiles import FETCH, filtering, multiplying
from specc.backends.tvm.cuda.sides import pitch
from specc.backends.tvm.cuda.threads import WARP
from specc.targets import Target

SQUARE = 4
"""Channels, and pixels, of which a thread has all sums in float32: 4 x 4."""

_FINISH = 3
"""Cycles in which a warp finishes an element of each thread: bias, activation, rounding, a write to shared memory."""

_SUMS = 32
"""Sums of the expansion that a thread has at a time on tensor cores, at most: with 40, a projection's beside them and a
division in the pointwise steps behind, a register was spilled on sm_90."""


@dataclass(frozen=True)
class Shape(separable_tiles.Shape):
    """An expansion from so many `sources` to `channels`, which a depthwise convolution filters, and a projection to
    `outputs`; without one, they are 0, and `between` and `result` are one tensor.

    `dtype` is that of the factors of both 1x1 convolutions; `wide` are the bytes between the first two.
    """

    sources: int
    wide: int

    @property
    def terms(self) -> int:
        """Sources with what fills fragments up."""
        return -(-self.sources // 16) * 16 if self.halves else self.sources

    @property
    def lines(self) -> int:
        """Words of shared memory that the sources of a pixel, or of a channel's weights, take in 16 bits."""
        return pitch(self.terms // RUN) * RUN // 2


@dataclass(frozen=True)
class Tile(separable_tiles.Tile):
    """Without a projection, `rows` are 0: a block has so many `workers`, its threads, and computes `steps` steps of
    channels. With one, it computes all."""

    workers: int = 0
    steps: int = 0

    @property
    def name(self) -> str:
        size = f"{self.extents[0]}x{self.extents[1]}_{self.depth}"
        return f"{self.rows}x{size}" if self.rows else f"{self.workers}x{size}x{self.steps}"

    @property
    def threads(self) -> int:
        return super().threads if self.rows else self.workers

    @property
    def parts(self) -> int:
        """A step's weights come while its channels are filtered."""
        return 1

    @property
    def pitch(self) -> int:
        """Words from pixel to pixel of the wide tensor in shared memory: what a warp writes at a time, 8 channels of 4
        pairs of pixels on tensor cores, is in different banks."""
        return self.depth + 4

    def warps(self, window: Window) -> core_tiles.Tile:
        """What all warps compute of the expansion at a time on tensor cores, channels x pixels; some pixels may lie
        behind the last one."""
        pixels, all = prod(self.inputs(window)), self.threads // WARP
        options = [
            core_tiles.Tile(self.depth, all * down // self.depth * across, down, across)
            for down in (self.depth, 16)
            for across in range(16, _SUMS * WARP // down + 1, 16)
        ]

        def cost(tile: core_tiles.Tile) -> tuple[int, int]:
            turns = -(-pixels // tile.columns)
            return turns * tile.columns, turns * (tile.down + tile.across)

        return min(options, key=cost)

    def lines(self, window: Window) -> int:
        """Pixels of the source in shared memory: those of all warps that have any."""
        pixels = prod(self.inputs(window))
        across = self.warps(window).across if self.halves else SQUARE
        return -(-pixels // across) * across

    def turns(self, window: Window) -> int:
        """How many times the warps do that; in float32, how many squares of sums a thread has, one after the other."""
        if self.halves:
            return -(-prod(self.inputs(window)) // self.warps(window).columns)
        squares = self.lines(window) // SQUARE * (self.depth // SQUARE)
        return -(-squares // self.threads)

    def expansion(self, shape: Shape) -> int:
        """Words of the source's pixels and of a step's weights."""
        lines = self.lines(shape.window) + self.depth
        return lines * (shape.lines if self.halves else shape.sources)

    def words(self, shape: Shape) -> int:
        """Words of shared memory."""
        picture = prod(self.inputs(shape.window)) * self.pitch
        taps = self.depth * (prod(shape.window.kernel) | 1)
        return self.expansion(shape) + picture + taps + (self.memory if self.rows else 0)

    def used(self, shape: Shape) -> int:
        """Registers of a thread, about."""
        window = shape.window
        sums = self.down * self.across // (WARP if self.halves else 1) if self.rows else 0
        tile = self.warps(window)
        expanding = tile.down * tile.across // WARP + (tile.down + tile.across) // 4 if self.halves else 6 * SQUARE
        brought = 0 if self.halves else self.rows * self.depth // self.threads
        filtering = RUN + len(window.offsets(RUN, 1)) + brought
        return sums + max(expanding, filtering) + 44


def ranked(shape: Shape, target: Target) -> list[Tile]:
    """The tiles that a multiprocessor holds, the one that takes least time first."""
    depths = (16, 32) if shape.halves or not shape.outputs else (products.STEP,)
    if shape.outputs:
        sizes = separable_tiles.CORES if shape.halves else separable_tiles.PLAIN
        tiles = [Tile(*size, depth, shape.halves) for size, depth in product(sizes, depths)]
    else:
        tiles = [
            Tile(0, extents, 0, 0, depth, shape.halves, workers, steps)
            for depth, extents, workers in product(depths, ((4, 8), (8, 8), (8, 16)), (128, 256))
            for steps in range(1, -(-shape.channels // depth) + 1)
            if -(-shape.channels // depth) % steps == 0
        ]
    fitting = [tile for tile in tiles if _held(tile, shape)]
    return sorted(fitting, key=lambda tile: (cycles(tile, shape, target), tile.rows, tile.threads))


def _held(tile: Tile, shape: Shape) -> int:
    """Blocks that share a multiprocessor."""
    return occupancy.resident(tile.threads, tile.used(shape), 4 * tile.words(shape))


def expanding(tile: Tile, shape: Shape) -> float:
    """Cycles in which a block computes a step's channels of the wide tensor."""
    window = shape.window
    finished = tile.depth * -(-prod(tile.inputs(window)) // WARP) * _FINISH
    if not tile.halves:
        sums = tile.turns(window) * tile.threads * SQUARE**2
        return sums * shape.sources / (128 * products.rate(products.Tile(0, 0, SQUARE, SQUARE))) + finished
    warps = tile.warps(window)
    fragments = tile.threads // WARP * (warps.down + warps.across) * shape.terms * 2 / SHARED_RATE
    return tile.turns(window) * max(warps.rows * warps.columns * shape.terms / PRODUCTS, fragments) + finished


def cycles(tile: Tile, shape: Shape, target: Target) -> float:
    """What the convolutions take, in cycles of a multiprocessor."""
    window, warps, size = shape.window, tile.threads // WARP, 2 if tile.halves else 4
    pixels = prod(tile.inputs(window))
    source = shape.sources * -(-pixels // WARP) * FETCH
    idle = max(1.0, tile.threads * RUN / (tile.depth * tile.columns))
    filtered = filtering(tile, window) * idle
    around = expanding(tile, shape) + (multiplying(tile) if tile.rows else 0.0)
    stored = 0 if tile.rows else tile.depth * tile.columns * size
    bytes = tile.depth * (shape.sources + tile.rows) * size + stored
    steps = -(-shape.channels // tile.depth)
    blocks = shape.pictures * prod(-(-p // e) for p, e in zip(window.places, tile.extents, strict=True))
    if tile.rows:
        blocks *= -(-shape.outputs // tile.rows)
    else:
        blocks, steps = blocks * (steps // tile.steps), tile.steps
    most, taken = _held(tile, shape) * target.processors, 0.0
    while blocks > 0:
        waves = max(1, blocks // most)
        resident = -(-min(blocks, most) // target.processors)
        busy = min(1.0, resident * warps / 8)
        step = max(resident * (around + filtered) / busy, around + max(filtered, LATENCY), resident * bytes / COPY_RATE)
        begins = max(resident * source / busy, resident * pixels * shape.sources * size / COPY_RATE)
        ends = resident * tile.rows * tile.columns * 4 / COPY_RATE
        taken += waves * (LATENCY + begins + steps * step + ends + START)
        blocks -= waves * most
    return taken
