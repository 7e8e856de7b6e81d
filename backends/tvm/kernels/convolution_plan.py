"""How a dense convolution (`convolution`) is computed: its extents as loops see them, and the choices of a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.group import Group
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.epilogue import flattens
from specc.backends.tvm.kernels.fetch import pays, take_ahead, take_inputs, take_results, take_soon
from specc.backends.tvm.kernels.rows import share, take_order, take_strips
from specc.targets import Target

UNROLL = 2
"""Reduction steps written out in the innermost loop: more makes LLVM slower and spills registers (measured at 16: 2 s a
kernel, half the speed)."""


_ENOUGH = 8
"""Pieces that threads can share out; with four times as many, one more or less is no matter."""


_LONG = 256
"""Pixels of a row that is one of several, at most."""


_LITTLE = 1.05
"""By what factor the rows of an image may tile worse than all of it as one row, so that threads can share them out."""


@dataclass(frozen=True)
class Geometry:
    """The extents of a convolution as its loops see them: `rows` x `columns` results a channel."""

    batch: int
    in_channels: int
    in_height: int
    in_width: int
    out_channels: int
    rows: int
    columns: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    flat: bool


@dataclass(frozen=True)
class Schedule:
    """How a convolution is computed. The outer loop runs over strips of rows or over groups of output blocks.

    The output blocks are dealt with in `groups`, which are as equal as they can be. The reduction is cut into `chunks`,
    `unroll` steps of it are written out; `soon`, `ahead`, `inputs` and `results` say what is asked for (`fetch`).
    """

    tile: tiles.Tile
    groups: int
    strips_first: bool
    strips: int
    chunks: int
    unroll: int
    soon: int
    ahead: bool
    inputs: bool
    results: bool


def schedule_of(
    g: Geometry,
    steps: int,
    target: Target,
    choices: Choices,
    size: int = 4,
    fetch: bool = True,
    heavy: bool = False,
    kept: int | None = None,
    depth: int = 1,
    unroll: int = UNROLL,
    chunked: bool = True,
) -> Schedule:
    """How a convolution is computed whose reduction takes so many steps a block of channels, `depth` of them in each;
    `unroll` are written out where nothing else is chosen.

    Its elements have `size` bytes; with `fetch`, its tiles can ask for what they read next; `heavy` is its epilogue;
    `kept` as `tiles.fits` has it. Where it is not `chunked`, the reduction is one chunk.
    """
    blocks = -(-g.out_channels // target.lanes)
    tile = tiles.take(choices, g.columns, blocks, target, g.kernel[1], kept)
    groups = -(-blocks // tile.blocks)
    weight_bytes = size * blocks * target.lanes * g.in_channels * g.kernel[0] * g.kernel[1]
    group_bytes = weight_bytes * tile.blocks // blocks
    read = g.in_height * g.in_width // (g.stride[1] if g.kernel == (1, 1) else 1)
    wanted = 0
    if g.batch * g.rows > 1:  # one row is one strip, which would leave nothing to share out
        wanted = take_order(choices, weight_bytes, size * g.in_channels * read, groups, target)
    default = share(g.rows, g.batch, wanted) if wanted else share(g.rows, g.batch * groups)
    image = size * g.in_channels * g.in_height * g.in_width  # a stride leaves out lines, but they have their place
    far = fetch and pays(target) and not wanted and 2 * group_bytes + image > target.l2_share * target.l2_bytes
    sums = 4 * target.lanes * tile.blocks * g.columns * g.rows
    if far and g.batch * groups >= _ENOUGH and sums <= target.l1_bytes:
        default = 1  # one core reads all weights of a group
    strips = take_strips(choices, g.rows, default)
    if not wanted and strips == 1 and _ENOUGH <= groups < 4 * _ENOUGH:
        groups = min(blocks, -(-groups // 4) * 4)
    unroll = take_unroll(choices, steps, unroll)
    soon = take_soon(choices, target) if fetch else 0
    alone = wanted or strips == 1  # else several threads use the same weights
    across = len(tiles.balanced(g.columns, tile.pixels)) * -(-g.rows // strips)
    channels = -(-g.in_channels // (steps * depth))
    full = 2 * group_bytes + image > target.l2_bytes  # else chunks gain less: sums leave their weights room
    short = far and across > 1 and sums <= strips * target.l1_bytes // (1 if full else 2)
    chunks = take_chunks(choices, channels, group_bytes, target, short) if fetch and chunked else 1
    ahead = fetch and bool(alone) and take_ahead(choices, weight_bytes, group_bytes // chunks, across, target)
    blocked = fetch and steps > 1
    inputs = blocked and take_inputs(choices, target)
    summed = g.kernel[0] * g.kernel[1] * -(-g.in_channels // (steps * depth))
    results = blocked and take_results(choices, summed, heavy, target)
    return Schedule(tile, groups, bool(wanted), strips, chunks, unroll, soon, ahead, inputs, results)


def kept_of(g: Geometry, inner: int, target: Target) -> int | None:
    """`kept` of `tiles.fits`, for an input in blocks of `inner` channels: LLVM keeps the inputs of a plain row for the
    next taps."""
    again = inner == 1 and g.kernel[1] > g.stride[1] and not target.broadcast_registers
    return 0 if again else None


def take_chunks(choices: Choices, channels: int, weights: int, target: Target, short: bool) -> int:
    """Into how many chunks a reduction over so many blocks of `channels` is cut, all of one length.

    `weights` are the bytes of those of a group of output blocks; those of a `short` chunk take half of the first-level
    cache at most.
    """
    counts = [n for n in range(1, channels + 1) if channels % n == 0]
    least = -(-2 * weights // target.l1_bytes) if short else 1
    return choices.near("chunks", counts, next((n for n in counts if n >= least), channels))


def take_unroll(choices: Choices, steps: int, unroll: int = UNROLL) -> int:
    """How many of a reduction's steps are written out: `unroll`, if nothing else is chosen."""
    return choices.take("unroll", [u for u in (2, 1, 4) if steps % u == 0], unroll if steps % unroll == 0 else 1)


def geometry_of(
    group: Group, anchor: int, target: Target, choices: Choices, cost: Callable[[int], float] | None = None
) -> Geometry:
    """The extents of the convolution that is a group's anchor; `cost` are the cycles of rows of so many pixels, if they
    are not those of two output blocks."""
    step = group.step(anchor)
    n, c, h, w = group.type(step.operands[0]).concrete
    _, o, oh, ow = step.type.concrete
    kernel = group.type(step.operands[1]).concrete[2:]
    stride, dilation, padding = step.attrs["stride"], step.attrs["dilation"], step.attrs["padding"]
    if kernel == (1, 1) == stride and not any(padding) and flattens(group):
        others = n * -(-o // (2 * target.lanes))
        columns = _factor(h * w, others, choices, cost or (lambda pixels: _cycles(pixels, target)))
        rows = h * w // columns
        return Geometry(n, c, rows, columns, o, rows, columns, (1, 1), (1, 1), (1, 1), (0, 0), True)
    return Geometry(n, c, h, w, o, oh, ow, (kernel[0], kernel[1]), stride, dilation, padding[:2], False)


def _cycles(columns: int, target: Target) -> float:
    """Cycles for a step of the reduction over a row and two output blocks."""
    return tiles.row_cost(columns, 2, tiles.choose(columns, 2, target), target)


def _factor(pixels: int, others: int, choices: Choices, cost: Callable[[int], float]) -> int:
    """How many pixels of a flattened image make a row: a divisor of all that tiles well.

    Rows are shared out among threads, so up to 64 pixels a row are as good as any; but nothing is lost by long rows
    where only these tile well (49 = 13 + 12 + 12 + 12), nor by a single one where `others` pieces are enough to share
    out. 4096 pixels tile by one hundredth better than 64 x 64; as one piece of work, a convolution to 48 channels takes
    as long with two threads as with one. `cost` are the cycles of a row.
    """
    divisors = [d for d in range(1, pixels + 1) if pixels % d == 0 and (d <= _LONG or d == pixels)]
    costs = {d: cost(d) / d for d in divisors}
    ranked = sorted(divisors, key=lambda d: (round(costs[d], 2), d > 64, d))
    shared = [d for d in ranked if d <= _LONG and costs[d] <= _LITTLE * costs[ranked[0]]]
    default = ranked[0] if others >= _ENOUGH or not shared else shared[0]
    return choices.take("columns", [d for d in ranked if costs[d] <= tiles.WORSE * costs[ranked[0]]], default)
