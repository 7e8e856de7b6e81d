"""How a convolution in tiles (`tiled`) is cut into units, and their order: cycles, by a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels.amx import BYTES, ROWS, fits
from specc.backends.tvm.kernels.panels import Image
from specc.backends.tvm.kernels.rows import share, strips_first, take_strips
from specc.targets import Target

_PRODUCT, _LOAD, _STORE = 18.0, 30.0, 17.0
"""Cycles, see `amx`. A load counts for more than its nine: units of 1 x 4, 4 x 1 and 6 x 1 tiles load 5 or 7 for 4 or 6
products and take 1.03 to 1.2 times as long as those of 2 x 2, which load 4 for 4. With 24, some layers of 14 x 14
results had units of 1 x 6, for they are 13 tiles: 256 to 1024 channels of bfloat16 took 110 microseconds, by 2 x 2 80;
512 to 1024 of integers, from 28 x 28, 104 and 78."""

_UNIT = 60.0
"""Cycles of a unit besides."""

_SOON = 2
"""Steps ahead of which a unit asks for weights that no other unit reads."""

_MANY = 16
"""Weights of so great a part of the second-level cache come from beyond it in every run of a network, and are asked for
a group ahead."""

_OFTEN = 8
"""Weights of so small a part of the second-level cache may be read again for every unit."""

_LITTLE = 1.1
"""By what factor units that pack their parts may take more cycles."""

_COMPANY = 4
"""Units that read the same weights of a chunk, at least."""

_LEAST = 8
"""Products of each sum in a chunk, at least."""

_PART = 4
"""Sums of all units are at most so great a part of the second-level cache where the reduction is in chunks."""

_FEW = 32
"""Weights of so small a part of the second-level cache may be read again for every strip."""


@dataclass(frozen=True)
class Plan:
    """Units are `tiles` tiles of results by `blocks` output blocks. The outer loop runs over strips of units, of which
    there are `strips`, or over groups of output blocks, each in so many strips."""

    tiles: int
    blocks: int
    strips_first: bool
    strips: int
    soon: int
    ahead: bool
    near: bool = False
    """Whether units pack their parts of the operand, and the outer loop in a strip runs over its results."""
    chunk: int = 0
    """Panels whose products all units of a strip add up before the next ones; 0: each unit those of all panels."""


def plan_of(images: Sequence[Image], channels: int, target: Target, choices: Choices) -> Plan | None:
    """How the results of so many output `channels` are computed, each a sum of what it reads of all `images`; None
    where tiles are slower than another template."""
    image = images[0]
    few = image.dtype == "uint8" and image.channels <= ROWS and image.kernel == (1, 1)
    macs = image.channels * prod(image.kernel) * channels
    small = not image.block and target.picture_macs is not None and macs <= target.picture_macs
    if not choices.take("tiles", (True, False), not few and not small):
        return None
    blocks = -(-channels // target.lanes)
    weights = sum(each.steps * blocks * ROWS * each.bytes for each in images)
    packed = sum(each.packed for each in images)
    shapes = _shapes(images, blocks, weights > target.l2_bytes)
    even = _even(images, blocks, shapes, target)
    often = _OFTEN * weights <= target.l2_bytes
    near = bool(even) and choices.take("near", (True, False), often and _as_good(images, blocks, even[0], shapes[0]))
    names = {f"{tiles}x{wide}": (tiles, wide) for tiles, wide in (even if near else shapes)}
    tiles, wide = names[choices.take("unit", names, next(iter(names)))]
    units, groups = -(-image.results // (ROWS * tiles)), -(-blocks // wide)
    if near:
        strips = take_strips(choices, units, share(units, image.batch))
        ahead = choices.take("ahead", (True, False), weights > target.l1_bytes)
        return Plan(tiles, wide, True, strips, 0, ahead, True)
    kept = packed <= target.l2_bytes // 2 and _FEW * weights > target.l2_bytes
    wanted = 0
    if image.batch * units > 1:
        wanted = strips_first(weights, packed, groups, target)
        order = "strips" if wanted and not kept else "blocks"
        wanted = (wanted or 8) if choices.take("order", ("strips", "blocks"), order) == "strips" else 0
    pieces = image.batch * groups
    alone = pieces >= 4 and pieces % 2 == 0
    default = share(units, image.batch, wanted) if wanted else 1 if alone else share(units, pieces)
    strips = take_strips(choices, units, default)
    own = not wanted and strips == 1
    several = own and units > 1
    ahead = own and choices.take("ahead", (True, False), _MANY * weights > target.l2_bytes)
    soon = choices.take("soon", (0, 2, 4), _SOON if own and units == 1 and not ahead else 0)
    chunk = 0
    if several and len(images) == 1 and image.panels > 1:
        parts = [0, *(n for n in range(1, image.panels) if image.panels % n == 0)]
        chunk = choices.take("chunk", parts, _chunk(image, tiles, wide, units, target))
    return Plan(tiles, wide, bool(wanted), strips, soon, ahead, chunk=chunk)


def _chunk(image: Image, tiles: int, wide: int, units: int, target: Target) -> int:
    """How many panels are a chunk of the reduction; 0 where it has none. The first-level cache holds its weights beside
    inputs and sums, but not the weights of all panels (integers of 128 channels, 3 x 3, 28 x 28, whose weights fit,
    take 1.1 of the time in chunks). So many products come of it that sums are worth to be read and written again; and
    the second-level cache holds the sums of all units beside what these read."""
    taps, one = len(image.taps), len(image.taps) * wide * ROWS * image.bytes
    sums = units * tiles * wide * ROWS * BYTES
    if units < _COMPANY or one * image.panels <= target.l1_bytes or _PART * sums > target.l2_bytes:
        return 0
    fitting = [n for n in range(1, image.panels) if image.panels % n == 0 and one * n <= target.l1_bytes // 2]
    return max((n for n in fitting if n * taps >= _LEAST), default=0)


def _shapes(images: Sequence[Image], blocks: int, far: bool) -> list[tuple[int, int]]:
    """All units that the tiles of a thread hold, the one of the fewest cycles first: all sums, what one of the two
    factors has, and one tile of the other. Where weights come from `far`, one that has all results reads them once."""
    most = -(-images[0].results // ROWS)
    found = [(tiles, wide) for tiles in range(1, most + 1) for wide in range(1, blocks + 1) if fits(tiles, wide)]
    return sorted(found, key=lambda shape: (not (far and shape[0] == most), _cycles(images, blocks, *shape), shape))


def _even(images: Sequence[Image], blocks: int, shapes: list[tuple[int, int]], target: Target) -> list[tuple[int, int]]:
    """Those of the `shapes` whose units can pack their parts of an operand: where no two results read the same, the
    groups of output blocks are all alike, and the first-level cache holds a part. Not those of one block of several:
    224 to 112 channels at 28 x 28 take 1.3 of the time so."""
    part, least = sum(ROWS * image.panels * image.bytes for image in images if image.pointwise), min(2, blocks)
    fitting = [(tiles, wide) for tiles, wide in shapes if blocks % wide == 0 and part * tiles <= target.l1_bytes]
    return [shape for shape in fitting if shape[1] >= least] if part else []


def _as_good(images: Sequence[Image], blocks: int, shape: tuple[int, int], best: tuple[int, int]) -> bool:
    """Whether units of a shape take about as few cycles as the best ones."""
    return _cycles(images, blocks, *shape) <= _LITTLE * _cycles(images, blocks, *best)


def _cycles(images: Sequence[Image], blocks: int, tiles: int, wide: int) -> float:
    """Cycles that all units take."""
    units, steps = -(-images[0].results // (ROWS * tiles)), sum(image.steps for image in images)

    def unit(width: int) -> float:
        step = _PRODUCT * tiles * width + _LOAD * (tiles + width)
        return steps * step + tiles * width * (_STORE + _LOAD) + _UNIT

    many, rest = divmod(blocks, wide)
    return units * (many * unit(wide) + (unit(rest) if rest else 0.0))
