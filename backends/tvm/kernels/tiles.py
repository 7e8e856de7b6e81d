"""Which register tile a convolution computes at a time, and how the tiles lie along a row.

A tile is `pixels` x `blocks` accumulators, each a vector of one channel block. One step of the reduction loads
`blocks` vectors of weights, broadcasts `pixels` inputs, and starts pixels * blocks multiply-adds. Its cost in cycles
is the greatest of

    pixels * blocks / 2       two multiply-adds start in a cycle
    (pixels + blocks) * 0.6   loads: two in a cycle at best (1.2 where one starts in a cycle)
    4                         a multiply-add's latency: each accumulator takes part once in a step
    0.16 * products           an x86 core starts four instructions in a cycle: the multiply-adds, the loads, a request
      + instructions / 4      for each vector of weights (`fetch`), 1.5 for the loop; near to that it loses cycles

and the accumulators, one set of weights and one broadcast value have to fit the register file. With a window of
several columns, one register in sixteen, and one at least, is to spare: where the taps at a border differ from pixel to
pixel, a tile of 14 x 2 in 32 registers spills, and one of 6 x 1 in the eight of a RISC-V core without vectors.

The last line is fitted to a loop in C on a Cascade Lake, in GFLOP/s of 152: 7 x 2: 136, 10 x 2: 140, 11 x 2: 144,
12 x 2: 147, 13 x 2: 148, 7 x 3: 148, 14 x 2: 149, 8 x 3, 9 x 3 and 6 x 4: 150. With it, rows of 7 pixels take 7 x 3 in
place of 7 x 2 and the 197 rows of a vision transformer 9 x 3 in place of 11 x 2: 0.80 to 0.92 of the time.

ARM's cores multiply a vector by a number that is in a register, too. LLVM loads those of all pixels ahead; with several
taps in a row of the window, it keeps what the next tap reads again, for two input channels at a time. There, a tile has
to leave room for them (docs/arm-tiles.md: a tile of 13 x 2 takes 1.8 times the cycles of 9 x 2 on the Neoverse N1).
LLVM keeps the inputs of a row of the window in registers also where channels are not in blocks, as in an image
(`kept`): with 3 channels and 3 x 3, 13 x 1 takes 0.62 of the time of 28 x 1, and 10 x 2 0.84 of 13 x 2; with 7 x 7,
8 x 2 takes 0.64 of 13 x 2. Dot products of integers take a register for the pixel that they multiply by on x86, too;
there, taps are kept apart (`Dots.part`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from specc.backends.tvm.choices import Choices
from specc.targets import Target

WORSE = 1.6
"""By what factor the cost of a tile may be above the least one for the tile to be worth a measurement."""

WAY = 0.25
"""Cycles for the way of a vector of weights from the second-level cache."""

LINE = 64
"""Bytes in a line of a cache, alike on all targets of the table."""

_KEPT = 3
"""Taps of a row whose inputs are taken to be kept for the next ones: of longer windows a part is read again."""


@dataclass(frozen=True)
class Tile:
    """A register tile of a convolution."""

    pixels: int
    blocks: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.blocks}"


@dataclass(frozen=True)
class Span:
    """`count` tiles of `pixels` each, side by side from `first` on, that read the same taps.

    `taps[s]` is the range [low, high) of a tile's pixels whose tap `s` of the window's columns lies inside the input.
    """

    first: int
    count: int
    pixels: int
    taps: tuple[tuple[int, int], ...]


def sets_of(target: Target) -> tuple[int, int]:
    """How many sets the first-level cache has, a power of two, and the lines in each: 8, or as many more as a size that
    is no power of two makes them (48 KB: 64 sets of 12)."""
    sets: int = 1 << (target.l1_bytes // (8 * LINE)).bit_length() - 1
    return sets, target.l1_bytes // (sets * LINE)


def balanced(length: int, pixels: int) -> list[int]:
    """The sizes of the fewest tiles of at most `pixels` that cover `length`, as equal as can be, great ones first."""
    count = -(-length // pixels)
    small, more = divmod(length, count)
    return [small + 1] * more + [small] * (count - more)


def runs(length: int, size: int) -> list[tuple[int, int, int]]:
    """`length` as runs of equal pieces of at most `size`: where each run starts, how many pieces, how long each."""
    sizes = balanced(length, size)
    great = sizes.count(sizes[0])
    found = [(0, great, sizes[0])]
    if great < len(sizes):
        found.append((great * sizes[0], len(sizes) - great, sizes[-1]))
    return found


def vectors(length: int, lanes: int) -> list[tuple[int, int, int]]:
    """`length` in vectors: where each run of them starts, how many they are, and how many lanes each has."""
    whole, rest = divmod(length, lanes)
    return [run for run in ((0, whole, lanes), (whole * lanes, 1, rest)) if run[1] and run[2]]


def spans(length: int, pixels: int, taps: int, stride: int, dilation: int, padding: int, extent: int) -> list[Span]:
    """The tiles of a row of `length` results, alike neighbours joined.

    `extent` is the length of the input's row, in which tap `s` of result `x` is at x * stride + s * dilation - padding.
    """
    result: list[Span] = []
    first = 0
    for size in balanced(length, pixels):
        pattern = []
        for tap in range(taps):
            offset = first * stride + tap * dilation - padding
            inside = [i for i in range(size) if 0 <= offset + i * stride < extent]
            pattern.append((inside[0], inside[-1] + 1) if inside else (0, 0))
        last = result[-1] if result else None
        if last and last.pixels == size and last.taps == tuple(pattern):
            result[-1] = Span(last.first, last.count + 1, size, last.taps)
        else:
            result.append(Span(first, 1, size, tuple(pattern)))
        first += size
    return result


def step_cost(pixels: int, blocks: int, target: Target) -> float:
    """Cycles for one step of the reduction over a tile, see above."""
    products = pixels * blocks / target.fma_per_cycle
    loads = (pixels + blocks) * 1.2 / target.loads_per_cycle
    started = 0.16 * products + (pixels * blocks + pixels + 2 * blocks + 1.5) / 4
    return max(products, loads, started if target.architecture == "x86_64" else 0.0, target.fma_latency)


def row_cost(length: int, blocks: int, tile: Tile, target: Target, way: float = WAY) -> float:
    """Cycles for one step of the reduction over a row of `length` results in `blocks` channel blocks, where a vector of
    weights takes `way` more cycles to come."""
    groups = [tile.blocks] * (blocks // tile.blocks) + [blocks % tile.blocks] * (blocks % tile.blocks > 0)
    sizes = balanced(length, tile.pixels)
    return sum(step_cost(size, group, target) + way * group for size in sizes for group in groups)


def choose(length: int, blocks: int, target: Target, widest: int = 4, taps: int = 1, way: float = WAY) -> Tile:
    """The tile of at most `widest` blocks that takes the fewest cycles for a row; among equals, that of more pixels.

    `taps` is how many columns the window has.

    Measured on Cascade Lake, one core, 3x3 convolutions of 64 to 256 channels: 13 x 2, 9 x 2, 8 x 3 and 6 x 4 reach 130
    to 145 GFLOP/s, 14 x 2 reaches 85 to 98 at 28 columns, 14 x 1 and 5 x 4 100 to 130.
    """
    return _ranked(length, blocks, target, widest, taps, way=way)[0]


def take(choices: Choices, length: int, blocks: int, target: Target, taps: int = 1, kept: int | None = None) -> Tile:
    """The tile for a row: what `choose` chooses, unless the choice `tile` has been made otherwise."""
    ranked = _ranked(length, blocks, target, taps=taps, kept=kept)
    default = ranked[0]
    most = WORSE * row_cost(length, blocks, ranked[0], target)
    tiles = {str(tile): tile for tile in ranked if row_cost(length, blocks, tile, target) <= most}
    return {**tiles, str(default): default}[choices.take("tile", tiles, str(default))]


@cache
def _ranked(
    length: int,
    blocks: int,
    target: Target,
    widest: int = 4,
    taps: int = 1,
    kept: int | None = None,
    way: float = WAY,
) -> tuple[Tile, ...]:
    """All tiles that the registers hold, the one that takes the fewest cycles first."""
    candidates = dict.fromkeys(
        Tile(balanced(length, pixels)[0], wide)
        for wide in range(1, min(blocks, widest) + 1)
        for pixels in range(1, length + 1)
        if fits(pixels, wide, target, taps, kept)
    )
    return tuple(
        sorted(candidates, key=lambda tile: (round(row_cost(length, blocks, tile, target, way), 6), -tile.pixels))
    )


def fits(pixels: int, blocks: int, target: Target, taps: int = 1, kept: int | None = None) -> bool:
    """Whether the registers hold a tile of a window with `taps` columns, see above; where `kept` is a number, its
    inputs too, with so many registers to spare."""
    held = pixels * blocks + blocks
    if kept is not None and taps > 1:
        return held + pixels + taps - 1 + kept <= target.vector_registers
    if target.broadcast_registers:
        ahead = pixels if taps == 1 else 2 * (pixels + min(taps, _KEPT) - 1)
        return held + ahead <= target.vector_registers
    spare = 1 if taps == 1 and target.architecture == "x86_64" else max(1, target.vector_registers // 16)
    return held + 1 <= target.vector_registers - spare
