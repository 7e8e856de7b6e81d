"""How a convolution by minimal filtering (`winograd`) is cut into pieces, and whether it pays: cycles, by a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from specc.backends.tvm import filtering
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels import tiles
from specc.backends.tvm.kernels.fetch import take_inputs, take_soon
from specc.targets import Target


@dataclass(frozen=True, order=True)
class Plan:
    """How the work is cut: tiles of `m` results (rows, columns), `size` of them in a piece, `blocks` output blocks at a
    time. With `own`, every thread has pieces of its own. `soon` and `inputs` say what is asked for (`fetch`)."""

    m: tuple[int, int]
    size: int
    blocks: int
    own: bool
    soon: int = 0
    inputs: bool = False

    def taken(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns that a tile reads; it has as many places."""
        rows, columns = ((self.m[i] - 1) * shape.stride[i] + shape.kernel[i] for i in (0, 1))
        return rows, columns


@dataclass(frozen=True)
class Shape:
    """What a convolution reads and computes; channels are counted in blocks."""

    batch: int
    inputs: int
    height: int
    width: int
    outputs: int
    rows: int
    columns: int
    kernel: tuple[int, int]
    padding: tuple[int, int]
    stride: tuple[int, int] = (1, 1)


def take(choices: Choices, shape: Shape, target: Target, depth: float = 1) -> Plan | None:
    """The plan that is to be followed: of its own accord the one of the fewest cycles, or none where direct sums, which
    add `depth` products in the time of one, take hardly more. Of plans that take about as many cycles, it is the one
    of the least rounding error, and then the one that takes the least memory."""
    cycles = {plan: _cycles(shape, plan, target) for plan in _plans(shape, target)}
    if not cycles:
        return None
    plans = sorted(cycles, key=lambda plan: (cycles[plan], plan))
    best, least = None, _direct(shape, target, depth)
    for size in sorted(dict.fromkeys(plan.m for plan in plans), key=lambda size: _growth(shape, size)):
        fewest = next(cycles[plan] for plan in plans if plan.m == size)
        if fewest < (_LESS if best else _GAIN) * least:
            best, least = size, fewest
    near = [plan for plan in plans if plan.m == best and cycles[plan] <= _ALIKE * least]
    if near:
        plans.insert(0, min(near, key=lambda plan: (_scratch(shape, plan), cycles[plan])))
    names = {f"{m[0]}x{m[1]}" if m else "none": m for m in (*dict.fromkeys(plan.m for plan in plans), None)}
    m = names[choices.take(CHOICE, names, next(name for name, size in names.items() if size == best))]
    cuts = {f"{p.blocks} of {p.size}{' own' if p.own else ''}": p for p in plans if p.m == m}
    if m is None:
        return None
    plan = cuts[choices.take("pieces", [*cuts][:_CUTS], next(iter(cuts)))]
    return replace(plan, soon=take_soon(choices, target), inputs=take_inputs(choices, target))


CHOICE = "winograd"
"""The choice that decides how weights are packed."""

_CUTS = 12
"""How many ways to cut the work are worth a try."""


def _plans(shape: Shape, target: Target) -> list[Plan]:
    """Everything that may be done."""
    return [
        Plan((rows, columns), size, blocks, own)
        for rows, columns in filtering.tiles(shape.kernel, target.rounding, shape.stride)
        for blocks in range(1, min(3, shape.outputs) + 1)
        for size, own in _pieces(shape, (rows, columns), target)
    ]


def _growth(shape: Shape, m: tuple[int, int]) -> float:
    """How much greater rounding errors are than those of direct sums (`filtering.growth`)."""
    return prod(map(filtering.growth, m, shape.kernel, shape.stride))


def _count(shape: Shape, m: tuple[int, int]) -> int:
    """How many tiles cover the results."""
    return shape.batch * -(-shape.rows // m[0]) * -(-shape.columns // m[1])


_MOST = 3 << 19
"""Bytes of the pixels of a piece at most, since they are memory of a run. Where the second-level cache would hold twice
as much, ResNet-50 takes 0.99 of the time with this bound (two cores of the Granite Rapids generation)."""


_BESIDE = 1 << 18
"""Bytes of the second-level cache that suffice for what is read and written beside the weights. Where it has 2 MB and
weights take 1.6, for 128 channels from 56 x 56 to 28 x 28, pieces of 14 tiles take 0.88 of the time of pieces of 98,
and 0.4 MB in place of 1.9 (one core of the Granite Rapids generation; a run of ResNet-50 5.7 MB in place of 7.2)."""


def _pieces(shape: Shape, m: tuple[int, int], target: Target) -> list[tuple[int, bool]]:
    """The sizes of pieces to think of, and whether threads have pieces of their own."""
    tiles_, places = _count(shape, m), prod(Plan(m, 1, 1, False).taken(shape))
    tile_bytes = 4 * places * shape.inputs * target.lanes
    weight_bytes = tile_bytes * shape.outputs * target.lanes
    whole = max(1, min(tiles_, min(3 * target.l2_bytes // 2, _MOST) // tile_bytes))
    found = [(tiles.balanced(tiles_, whole)[0], False)]
    if weight_bytes <= max(3 * target.l2_bytes // 4, target.l2_bytes - _BESIDE):
        # They are read for each piece, of a thread's own by every thread.
        found += [(tiles.balanced(tiles_, whole // parts)[0], False) for parts in (2, 3, 4) if parts <= whole]
        found += [
            (size, True) for size in range(8, 33) if 8 * size <= tiles_ and tile_bytes * size <= target.l2_bytes // 3
        ]
    return found


_ALIKE = 1.015
"""Up to this factor, the model does not tell which of two plans takes longer: 64 channels, 56 x 56, in 4 pieces that
all threads work on (0.9 MB for two threads) or in 18 of their own (0.3 MB), 0.74 and 0.72 ms on one core."""

_GAIN, _LESS = 0.9, 0.95
"""Of the cycles that direct sums take, and those of tiles of a smaller error: with more, the greater error is not worth
it."""

_FROM_MEMORY, _TO_CACHE, _AGAIN = 14.0, 8.0, 18.0
"""Cycles for 64 bytes of weights from memory, and for 64 bytes written to the second-level cache and read again, as
measured on Cascade Lake: 11 GB/s and 7 cycles; the transform of a tile whose places are more than the registers takes
longer, 10 for 36 and 45 places, 20 for 81. Weights that this cache does not hold are read again for each piece, and
less of that goes by unnoticed: 16 to 21 cycles, for 128 channels from 56 x 56 to 28 x 28."""

_STRIDED = 1.15
"""How much longer direct sums with a stride take: 1.08 to 1.19, for 96 to 512 channels, 3 x 3, at 28 to 7 pixels."""

_NOTICED = 0.75
"""Of the time that memory works while products are added up, see `_waiting`."""


def _cycles(shape: Shape, plan: Plan, target: Target) -> float:
    """Cycles on one core, and what threads lose that cannot share the work out evenly.

    From 28 x 28 to 14 x 14, with stride 2 and 256 channels, F(2 x 2) takes 0.78 of the time of direct sums; from 56 x
    56, with 128, whose image and pixels of all tiles the second-level cache does not hold, 0.95 to 1.11.
    """
    places = prod(plan.taken(shape))
    pieces, groups = -(-_count(shape, plan.m) // plan.size), -(-shape.outputs // plan.blocks)
    line = target.lanes / 16
    tile = tiles.choose(plan.size, plan.blocks, target, plan.blocks)
    steps = places * shape.inputs * target.lanes
    products = pieces * groups * steps * tiles.row_cost(plan.size, plan.blocks, tile, target)
    weights = steps * shape.outputs * line
    moved = pieces * plan.size * places * (shape.inputs + groups * plan.blocks) * _TO_CACHE * line
    moved *= max(1, places / target.vector_registers)
    image = shape.batch * shape.inputs * shape.height * shape.width * line
    if 64 * image > target.l2_bytes:  # nobody asks for it ahead
        moved += image * _FROM_MEMORY
    if plan.own:
        return (products + moved) * _unevenness(pieces) + _waiting(weights, products)
    if 64 * weights > target.l2_bytes:
        moved += (pieces - 1) * weights * _AGAIN
    return products * _unevenness(groups) + _waiting(weights, products) + moved


def _waiting(weights: float, products: float) -> float:
    """Cycles for which products wait for so many lines of weights from memory, all of which are asked for ahead.

    The greater its part of the time is, the less of it goes by unnoticed: at 14 x 14, with 256 channels, where all
    weights take 386 microseconds by themselves, F(2 x 2) waits for 40 of them; F(3 x 3), whose 604 are more than its
    products take, for 240; with stride 2, F(2 x 2) waits for 155 of 604.
    """
    read = weights * _FROM_MEMORY
    return _NOTICED * read * read / (read + products)


def _scratch(shape: Shape, plan: Plan) -> int:
    """Vectors of memory for two threads: for transformed tiles, which they may share, and products."""
    tiles_ = plan.size * shape.inputs * (2 if plan.own else 1)
    return prod(plan.taken(shape)) * (tiles_ + 2 * plan.size * plan.blocks)


def _unevenness(pieces: int) -> float:
    """How much longer two threads take for so many pieces than for half of the work each."""
    return -(-pieces // 2) * 2 / pieces


def _direct(shape: Shape, target: Target, depth: float) -> float:
    """Cycles that direct sums take."""
    steps = prod(shape.kernel) * shape.inputs * target.lanes / depth
    tile = tiles.choose(shape.columns, shape.outputs, target)
    products = shape.batch * shape.rows * steps * tiles.row_cost(shape.columns, shape.outputs, tile, target)
    for i, results in enumerate((shape.rows, shape.columns)):
        products *= _inside(shape, i, results)
    if shape.stride != (1, 1):
        products *= _STRIDED
    return products + _waiting(steps * shape.outputs * target.lanes / 16, products)


def _inside(shape: Shape, axis: int, results: int) -> float:
    """The share of the taps of so many results along an axis that lie inside the input: others are left out."""
    length, first = (shape.height, shape.width)[axis], -shape.padding[axis]
    read = (first + x * shape.stride[axis] + tap for x in range(results) for tap in range(shape.kernel[axis]))
    return sum(0 <= place < length for place in read) / (results * shape.kernel[axis])
