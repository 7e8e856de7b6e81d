"""Two 1x1 convolutions, the second of which alone reads the first, in one kernel: the perceptron of ConvNeXt and its
like.

    x --1x1 convolution--> wide --pointwise steps--> wide --1x1 convolution--> --pointwise steps--> result

Both are computed for a strip of pixels behind each other: all channels of what is between them lie in memory of the
thread, which the second-level cache holds beside the weights of both, and never exist for the whole image. A strip
reads no pixels of its neighbours, so nothing is computed twice; threads share out the strips.

The fusion pass decides which groups are computed so, by a rule and its measurements (`specc.passes.perceptron`); a
choice can take the two apart again: one behind the other then, each by its own template. So they are where pixels tile
badly in strips, as where the extents of an image have no divisors, and where one of them makes use of an output block
that is half empty (`half_blocks`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from specc.backends.tvm.apart import apart
from specc.backends.tvm.choices import Choices
from specc.backends.tvm.emitter import Emitter, Template
from specc.backends.tvm.group import Group, cut
from specc.backends.tvm.kernels import convolution, half_blocks, tiles
from specc.backends.tvm.kernels.convolution import Convolution
from specc.backends.tvm.kernels.convolution_plan import Geometry, Schedule, geometry_of, take_unroll
from specc.backends.tvm.kernels.epilogue import Epilogue, flattens, is_heavy
from specc.backends.tvm.kernels.fetch import take_inputs, take_results, take_soon
from specc.backends.tvm.kernels.rows import Rows
from specc.backends.tvm.kernels.stages import Stage, is_pointwise, packings_of, stages_of
from specc.ir.dtypes import DTYPES
from specc.targets import Target

_PIXELS, _PART = 224, 8
"""A strip has so many pixels at most, and fills such a part of the second-level cache: strips of 56 to 392 pixels take
the same time (one core of the Granite Rapids generation)."""

_STRIPS = 4
"""Two or four threads get equal parts of a multiple of this; there are to be twice as many where there can be."""

_LONG = 64
"""Pixels that are run through as one row at most."""

_LITTLE = 1.05
"""By what factor such rows may tile worse than the whole image does, for the sake of strips."""


@dataclass(frozen=True)
class Plan:
    """A strip is `rows` of the geometries' rows; the last one may have fewer. The first convolution writes them, the
    second one reads them."""

    rows: int
    first: tuple[Geometry, Schedule]
    last: tuple[Geometry, Schedule]


def lower(group: Group, target: Target, choices: Choices) -> Template | None:
    """The template of a group that is two 1x1 convolutions, one behind the other; None for another group."""
    stages = stages_of(group, target)
    if len(stages) != 2 or not all(is_pointwise(group, stage.anchor) for stage in stages):
        return None
    packings = packings_of(group, stages, target)
    if packings is None:
        return None
    columns, tiled = _columns(group, stages, target)
    halves = any(_halves(group, stage.anchor, target) for stage in stages)
    if not choices.take("fused", (True, False), tiled and not halves):
        parts = cut(group, stages[0].value)
        named = zip(parts, ("expand", "project"), strict=True)
        alone = [_alone(part.group, target, choices.part(name)) for part, name in named]
        made = apart(stages[0].value, parts, alone)
        return Template(lambda emitter: made.write(emitter), made.packings, once=made.once)
    plan = plan_of(group, stages, columns, target, choices)
    return Template(lambda emitter: _write(emitter, stages, plan, target), packings, once=True)


def _halves(group: Group, anchor: int, target: Target) -> bool:
    """Whether a convolution by itself makes use of an output block that is half empty."""
    channels = group.type(anchor).concrete[1]
    if not half_blocks.serves(group, anchor, target):
        return False
    cost = partial(half_blocks.cost, channels=channels, target=target)
    return half_blocks.gains(geometry_of(group, anchor, target, Choices(), cost), target)


def _alone(group: Group, target: Target, choices: Choices) -> Template:
    """The template of one of the convolutions."""
    found = half_blocks.lower(group, target, choices) or convolution.lower(group, target, choices)
    assert found is not None
    return found


def plan_of(group: Group, stages: tuple[Stage, ...], columns: int, target: Target, choices: Choices) -> Plan:
    """How both convolutions are computed, in rows of so many pixels."""
    n, channels, height, width = group.type(group.step(stages[0].anchor).operands[0]).concrete
    wide, out = (group.type(stage.anchor).concrete[1] for stage in stages)
    whole = height * width // columns
    geometry = Geometry(
        n, channels, whole, columns, wide, whole, columns, (1, 1), (1, 1), (1, 1), (0, 0), _flattens(group, stages)
    )
    counts = [rows for rows in range(1, whole + 1) if rows == 1 or rows * columns <= 2 * _PIXELS]
    rows = choices.near("rows", counts, _strip(n, whole, columns, wide, target))
    strips = -(-whole // rows)

    def schedule(g: Geometry, part: Choices, inputs: bool, results: bool) -> Schedule:
        blocks = -(-g.out_channels // target.lanes)
        tile = tiles.take(part, columns, blocks, target)
        unroll, soon = take_unroll(part, target.lanes), take_soon(part, target)
        return Schedule(tile, -(-blocks // tile.blocks), True, strips, 1, unroll, soon, False, inputs, results)

    expand, project = choices.part("expand"), choices.part("project")
    results = take_results(project, -(-wide // target.lanes), is_heavy(group, stages[1].value), target)
    second = replace(geometry, in_channels=wide, out_channels=out)
    return Plan(
        rows,
        (geometry, schedule(geometry, expand, take_inputs(expand, target), False)),
        (second, schedule(second, project, False, results)),
    )


def _columns(group: Group, stages: tuple[Stage, ...], target: Target) -> tuple[int, bool]:
    """How many pixels make a row, and whether rows tile as well as the image: a divisor of all pixels where height and
    width may be run through as one axis, or else the width."""
    _, _, height, width = group.type(stages[0].anchor).concrete

    def cost(columns: int) -> float:
        return tiles.row_cost(columns, 2, tiles.choose(columns, 2, target), target) / columns

    if not _flattens(group, stages):
        return width, True  # as each of the two by itself
    pixels = height * width
    divisors = [columns for columns in range(1, min(pixels, _LONG) + 1) if pixels % columns == 0]
    costs = {columns: cost(columns) for columns in divisors}
    found = min(divisors, key=lambda columns: (round(costs[columns], 2), columns))
    return found, costs[found] <= _LITTLE * cost(pixels)


def _flattens(group: Group, stages: tuple[Stage, ...]) -> bool:
    """Whether height and width may be run through as one axis, behind each of the two."""
    return all(flattens(group, stage.value) for stage in stages)


def _strip(batch: int, rows: int, columns: int, wide: int, target: Target) -> int:
    """How many rows a strip has: the most that fit, of those that give threads equal parts, if any do."""
    size = DTYPES["float32"] * wide * columns
    fitting = [n for n in range(1, rows + 1) if n * columns <= _PIXELS and n * size * _PART <= target.l2_bytes] or [1]

    def rank(count: int) -> tuple[bool, bool, int]:
        strips = batch * -(-rows // count)
        return strips >= 2 * _STRIPS, rows % count == 0 and strips % _STRIPS == 0, count

    return max(fitting, key=rank)


def _write(emitter: Emitter, stages: tuple[Stage, ...], plan: Plan, target: Target) -> None:
    """All loops of the kernel."""
    group, lanes = emitter.group, target.lanes
    geometry, schedule = plan.first
    between = group.type(stages[0].value)
    with emitter.parallel(geometry.batch * schedule.strips) as work:
        n, strip = emitter.divmod(work, schedule.strips)
        rows = Rows(emitter, between, between.physical[1], plan.rows, width=geometry.columns)
        front = Epilogue(emitter, stages[0].anchor, lanes, stages[0].value, rows)
        Convolution(emitter, stages[0].anchor, *plan.first, lanes, target, epilogue=front).strip(n, strip)
        Convolution(emitter, stages[1].anchor, *plan.last, lanes, target, source=rows).strip(n, strip)
