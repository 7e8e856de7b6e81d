"""Which tile a depthwise convolution and a 1x1 convolution in one launch have: a model of a multiprocessor's time.

A block does `depth` channels in a step: it brings their pictures to shared memory, filters these, and multiplies. A
step is as long as the three together, or as its bytes take from the second-level cache, or as one read from memory,
since the pictures of one step are on their way while the one before is computed. Blocks that share a multiprocessor
share its instructions; eight warps keep it busy. How many blocks there are, registers and shared memory decide.

Rates are those of `core_tiles` and `depthwise`, which nobody has measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

from specc.backends.tvm.cuda import core_tiles, occupancy, products
from specc.backends.tvm.cuda.core_tiles import LATENCY, PRODUCTS, SHARED_RATE, START
from specc.backends.tvm.cuda.depthwise import Window
from specc.backends.tvm.cuda.occupancy import COPY_RATE
from specc.backends.tvm.cuda.runs import RUN
from specc.backends.tvm.cuda.sides import pitch
from specc.backends.tvm.cuda.threads import WARP
from specc.ir.dtypes import HALVES
from specc.targets import Target

FETCH = 3
"""Cycles in which a warp brings an element of each thread to shared memory: a read, a write, and what else it takes of
the four instructions that start in a cycle."""

_FETCHED = 48
"""Elements of a step's pictures that a thread holds in registers while it computes the step before, at most."""


@dataclass(frozen=True)
class Shape:
    """A depthwise convolution of so many `channels`, and a 1x1 convolution of `dtype` to so many `outputs`.

    `source`, `between` and `result` are bytes of the tensors.
    """

    window: Window
    pictures: int
    channels: int
    outputs: int
    dtype: str
    source: int
    between: int
    result: int

    @property
    def halves(self) -> bool:
        """Whether the product is of 16 bits."""
        return self.dtype in HALVES


@dataclass(frozen=True)
class Shares:
    """Of a step's pictures: the threads are so many `parts`, and each part has other channels. A thread brings so many
    `pixels`, of so many `channels`."""

    parts: int
    pixels: int
    channels: int

    @property
    def count(self) -> int:
        """Elements that a thread brings."""
        return self.pixels * self.channels


@dataclass(frozen=True)
class Tile:
    """Of a block: `rows` outputs of `extents` pixels, in steps of `depth` channels; of a warp (with 16 bits) or a
    thread, `down` x `across` sums."""

    rows: int
    extents: tuple[int, int]
    down: int
    across: int
    depth: int
    halves: bool

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.extents[0]}x{self.extents[1]}_{self.depth}"

    @property
    def columns(self) -> int:
        return prod(self.extents)

    @property
    def cores(self) -> core_tiles.Tile:
        """The tile of the product on tensor cores."""
        return core_tiles.Tile(self.rows, self.columns, self.down, self.across)

    @property
    def plain(self) -> products.Tile:
        """The tile of the product in float32."""
        return products.Tile(self.rows, self.columns, self.down, self.across)

    @property
    def threads(self) -> int:
        return self.cores.threads if self.halves else self.plain.threads

    def inputs(self, window: Window) -> tuple[int, int]:
        """Rows and columns of the picture that its pixels need."""
        return window.needed(self.extents[0], 0), window.needed(self.extents[1], 1)

    def shares(self, window: Window) -> Shares:
        """What a thread brings of a step's pictures."""
        pixels = prod(self.inputs(window))
        parts = next(n for n in (8, 4, 2, 1) if n == 1 or (n * pixels <= self.threads and self.depth % n == 0))
        return Shares(parts, -(-pixels * parts // self.threads), self.depth // parts)

    @property
    def parts(self) -> int:
        """Steps whose weights of the product are in shared memory at a time."""
        return 2

    @property
    def weights(self) -> int:
        """Words of the product's weights of a step."""
        return self.rows * (pitch(self.depth // RUN) * RUN // 2 if self.halves else self.depth)

    @property
    def memory(self) -> int:
        """Words that the product has: weights, what was filtered, or results on their way."""
        if not self.halves:
            return self.parts * self.weights + self.depth * (self.columns + 4)
        filtered = self.depth * pitch(self.columns // RUN) * RUN // 2
        return max(self.parts * self.weights + filtered, self.threads // WARP * self.cores.staged)

    def shared(self, window: Window) -> int:
        """Bytes of shared memory."""
        taps = self.depth * (prod(window.kernel) | 1)
        return 4 * (self.memory + prod(self.inputs(window)) * (self.depth + 1) + taps)

    def registers(self, window: Window) -> int:
        """Registers of a thread, about."""
        sums = self.down * self.across // (WARP if self.halves else 1)
        read = (self.down + self.across) // 4 if self.halves else self.down + self.across
        filtering = RUN + len(window.offsets(RUN, 1))
        return sums + max(read, filtering) + self.shares(window).count + 44


CORES = (
    (256, (8, 8), 64, 32),
    (256, (4, 8), 64, 16),
    (128, (8, 16), 64, 32),
    (128, (8, 8), 32, 32),
    (128, (4, 8), 32, 16),
    (64, (8, 16), 32, 32),
    (64, (8, 8), 32, 32),
    (64, (4, 8), 32, 16),
    (32, (8, 16), 16, 32),
    (32, (8, 8), 16, 32),
    (32, (4, 8), 16, 16),
)
PLAIN = (
    (128, (8, 16), 8, 8),
    (128, (8, 8), 8, 4),
    (64, (8, 16), 4, 8),
    (64, (8, 8), 4, 4),
    (64, (4, 8), 4, 4),
    (32, (8, 8), 4, 4),
    (32, (4, 8), 4, 4),
)


def ranked(shape: Shape, target: Target) -> list[Tile]:
    """The tiles that a multiprocessor holds, the one that takes least time first."""
    sizes, depths = (CORES, (16, 32)) if shape.halves else (PLAIN, (products.STEP,))
    tiles = [Tile(*size, depth, shape.halves) for size, depth in product(sizes, depths)]
    fitting = [t for t in tiles if t.shares(shape.window).count <= _FETCHED and _held(t, shape)]
    return sorted(fitting, key=lambda tile: cycles(tile, shape, target))


def _held(tile: Tile, shape: Shape) -> int:
    """Blocks that share a multiprocessor."""
    return occupancy.resident(tile.threads, tile.registers(shape.window), tile.shared(shape.window))


def filtering(tile: Tile, window: Window) -> float:
    """Cycles in which a block filters the channels of a step."""
    taps = prod(window.kernel)
    read = window.kernel[0] * len(window.offsets(RUN, 1)) + taps
    return tile.depth * tile.columns / RUN / WARP * (read + RUN * taps / 4 + RUN)


def multiplying(tile: Tile) -> float:
    """Cycles in which a block multiplies them by the weights of its outputs."""
    if not tile.halves:
        return tile.rows * tile.columns * tile.depth / (128 * products.rate(tile.plain))
    fragments = tile.threads // WARP * (tile.down + tile.across) * tile.depth * 2 / SHARED_RATE
    return max(tile.rows * tile.columns * tile.depth / PRODUCTS, fragments)


def cycles(tile: Tile, shape: Shape, target: Target) -> float:
    """What both convolutions take, in cycles of a multiprocessor."""
    window, warps = shape.window, tile.threads // WARP
    inputs = tile.depth * prod(tile.inputs(window))
    fetched = tile.depth * -(-prod(tile.inputs(window)) // WARP) * FETCH
    filtered, multiplied = filtering(tile, window), multiplying(tile)
    bytes = (inputs + tile.rows * tile.depth) * (2 if tile.halves else 4)
    tiles = shape.pictures * prod(-(-p // e) for p, e in zip(window.places, tile.extents, strict=True))
    blocks = tiles * -(-shape.outputs // tile.rows)
    steps, most = -(-shape.channels // tile.depth), _held(tile, shape) * target.processors
    taken = 0.0
    while blocks > 0:
        waves = max(1, blocks // most)
        resident = -(-min(blocks, most) // target.processors)
        busy = min(1.0, resident * warps / 8)
        computed = resident * (fetched + filtered + multiplied) / busy
        step = max(computed, resident * bytes / COPY_RATE, LATENCY)
        taken += waves * (LATENCY + steps * step + resident * tile.rows * tile.columns * 4 / COPY_RATE + START)
        blocks -= waves * most
    return taken
