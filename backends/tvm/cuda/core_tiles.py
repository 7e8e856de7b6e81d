"""Which tile a product on tensor cores has: a model of a multiprocessor's time, over occupancy and waves.

A block does 32 terms of its tile in the longest of three: the products themselves, the reading of fragments from shared
memory, the copies that come through the second-level cache. Blocks that share a multiprocessor share all three;
together they hide the latency of copies, of which `STAGES` - 1 parts are on their way. How many there are, registers
and shared memory decide. The last wave has fewer. (Volkov, "Understanding latency hiding on GPUs", 2016.)

The rates are those that NVIDIA states for the A100: no GPU was here to measure on. They are near enough alike on all
targets for what they decide, which is an order of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.cuda.occupancy import COPY_RATE, LAUNCH, ROUND_TRIP, resident
from specc.targets import Target

STEP = 32
"""Terms of k in a part of shared memory."""

STAGES = 3
"""Parts in shared memory."""

PRODUCTS = 1024
"""Multiplications of 16 bits that a multiprocessor does in a cycle."""

SHARED_RATE = 128
"""Bytes of shared memory in a cycle."""

LATENCY = 700
"""Cycles that a copy from memory takes."""

START = 1500
"""Cycles of a block before its first product and behind the last, without its results."""

_SPLITS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Tile:
    """Sums of a block, and of each of its warps."""

    rows: int
    columns: int
    down: int
    across: int

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def threads(self) -> int:
        return self.rows * self.columns // (self.down * self.across) * 32

    @property
    def part(self) -> int:
        """Bytes of a part of both sides."""
        return (self.rows + self.columns) * STEP * 2

    @property
    def pitch(self) -> int:
        """Words between rows of sums in shared memory: the four rows that half a warp writes are in different banks."""
        return self.across + 8

    @property
    def staged(self) -> int:
        """Words of shared memory for 16 rows of a warp's sums."""
        return 16 * self.pitch

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return max(STAGES * self.part, self.threads // 32 * self.staged * 4)

    @property
    def registers(self) -> int:
        """Registers of a thread, about: its sums, two fragments, and what else it computes with."""
        return self.down * self.across // 32 + (self.down + self.across) // 4 + 40


TILES = (
    Tile(128, 128, 64, 32),
    Tile(128, 64, 32, 32),
    Tile(64, 128, 32, 32),
    Tile(64, 64, 32, 32),
    Tile(128, 32, 32, 32),
    Tile(32, 128, 32, 32),
    Tile(64, 32, 32, 16),
    Tile(32, 64, 16, 32),
    Tile(32, 32, 16, 16),
)


def held(tile: Tile) -> int:
    """Blocks that share a multiprocessor."""
    return resident(tile.threads, tile.registers, tile.shared)


def cycles(tile: Tile, splits: int, sizes: tuple[int, int, int, int], target: Target) -> float:
    """What a product takes, in cycles of a multiprocessor; `sizes` are batch, rows, columns and terms."""
    batch, rows, columns, terms = sizes
    steps = -(-terms // (STEP * splits))
    warps = tile.threads // 32
    products = tile.rows * tile.columns * STEP / PRODUCTS
    fragments = warps * (tile.down + tile.across) * STEP * 2 / SHARED_RATE
    step = max(products, fragments, tile.part / COPY_RATE)
    results = tile.rows * tile.columns * (8 if splits > 1 else 4) / COPY_RATE
    most = held(tile) * target.processors
    left, taken = batch * -(-rows // tile.rows) * -(-columns // tile.columns) * splits, 0.0
    while left > 0:
        waves = max(1, left // most)
        resident = -(-min(left, most) // target.processors)
        taken += waves * (steps * max(resident * step, LATENCY / (STAGES - 1)) + resident * results + START)
        left -= waves * most
    if splits > 1:
        added = batch * rows * columns * (splits + 1) * 4 / (COPY_RATE * target.processors)
        taken += LAUNCH + ROUND_TRIP + added
    return taken


def choose(sizes: tuple[int, int, int, int], target: Target, choices: Choices) -> tuple[Tile, int]:
    """The tile, and the number of parts of k, that take least time."""
    terms = sizes[-1]
    parts = [splits for splits in _SPLITS if splits == 1 or terms >= splits * 4 * STEP]

    def best(tile: Tile) -> int:
        return min(parts, key=lambda splits: cycles(tile, splits, sizes, target))

    ranked = sorted(TILES, key=lambda tile: cycles(tile, best(tile), sizes, target))
    name = choices.take("tile", (tile.name for tile in ranked), ranked[0].name)
    tile = next(tile for tile in TILES if tile.name == name)
    return tile, choices.near("splits", parts, best(tile))
