"""How a convolution in tiles (`tiled`) is cut into units, and their order: cycles, by a model."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from specc.backends.tvm.choices import Choices
from specc.backends.tvm.kernels.amx import BYTES, ROWS, TILES
from specc.backends.tvm.kernels.panels import Image
from specc.backends.tvm.kernels.rows import share, take_order, take_strips
from specc.targets import Target

_PRODUCT, _LOAD, _STORE = 18.0, 9.0, 17.0
"""Cycles, see `amx`."""

_UNIT = 60.0
"""Cycles of a unit besides."""


@dataclass(frozen=True)
class Plan:
    """Units are `tiles` tiles of results by `blocks` output blocks. The outer loop runs over strips of units, of which
    there are `strips`, or over groups of output blocks, each in so many strips."""

    tiles: int
    blocks: int
    strips_first: bool
    strips: int


def plan_of(image: Image, channels: int, target: Target, choices: Choices) -> Plan | None:
    """How the results of so many output `channels` are computed; None where tiles are slower than another template."""
    if not choices.take("tiles", (True, False), True):
        return None
    blocks = -(-channels // target.lanes)
    shapes = {f"{tiles}x{wide}": (tiles, wide) for tiles, wide in _shapes(image, blocks)}
    tiles, wide = shapes[choices.take("unit", shapes, next(iter(shapes)))]
    units, groups = -(-image.results // (ROWS * tiles)), -(-blocks // wide)
    steps = image.panels * prod(image.kernel)
    weights = steps * blocks * ROWS * BYTES
    inputs = BYTES * image.panels * image.phases * image.down * image.across
    wanted = take_order(choices, weights, inputs, groups, target) if image.batch * units > 1 else 0
    default = share(units, image.batch, wanted) if wanted else share(units, image.batch * groups)
    return Plan(tiles, wide, bool(wanted), take_strips(choices, units, default))


def _shapes(image: Image, blocks: int) -> list[tuple[int, int]]:
    """All units that the tiles of a thread hold, the one of the fewest cycles first: all sums, what one of the two
    factors has, and one tile of the other."""
    most = -(-image.results // ROWS)
    found = [
        (tiles, wide)
        for tiles in range(1, most + 1)
        for wide in range(1, blocks + 1)
        if tiles * wide + min(tiles, wide) + 1 <= TILES
    ]
    return sorted(found, key=lambda shape: (_cycles(image, blocks, *shape), shape))


def _cycles(image: Image, blocks: int, tiles: int, wide: int) -> float:
    """Cycles that all units take."""
    units, steps = -(-image.results // (ROWS * tiles)), image.panels * prod(image.kernel)

    def unit(width: int) -> float:
        step = max(_PRODUCT * tiles * width, _LOAD * (tiles + width), 22.0)
        return steps * step + tiles * width * (_STORE + _LOAD) + _UNIT

    many, rest = divmod(blocks, wide)
    return units * (many * unit(wide) + (unit(rest) if rest else 0.0))
